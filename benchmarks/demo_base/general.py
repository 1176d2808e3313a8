"""The demo's general text: prose like the base's pretraining text that the base never read.

The stream `general` is neither that of pretraining nor the one its loss was watched on. Seeds alone
do not keep texts apart: short documents come out the same by chance, 40 of the first 400 here. So
all that pretraining read is made again (392,000 documents, 6 s) and left out.
`python -m benchmarks.demo_base.general --out DIR` writes `general.jsonl`.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

from benchmarks.demo_base.text import stream

TEXTS = 200
TRAINING = Path(__file__).parents[2] / "ila_core/demo/base/training.json"


def read_in_pretraining() -> set[str]:
    """Every document that the shipped base was trained on."""
    facts = json.loads(TRAINING.read_text())
    return set(islice(stream(f"train-{facts['seed']}"), facts["documents"]))


def lines(read: set[str], count: int = TEXTS) -> list[str]:
    """The first `count` different documents of the stream that are not among those `read`."""
    new = dict.fromkeys(text for text in islice(stream("general"), 2 * count) if text not in read)
    assert len(new) >= count
    return [json.dumps({"text": text}) for text in islice(new, count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines(read_in_pretraining())) + "\n"
    (out / "general.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
