"""Datasets: files and the hub to conversations, what is left out, and errors that say where."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from ila_core import hub
from ila_core.config import DatasetConfig
from ila_core.data import Dataset
from ila_core.data.conversation import Conversation, Message, content_hash
from ila_core.data.sources import DATASETS, hub_revision
from ila_core.errors import UserError
from tests.helpers.datasets import EXCHANGE, MESSAGES, dataset, read, said, write

ROOT = Path(__file__).parents[3]

REAL_FILES = {
    "lima": ("lima/train.jsonl", 1030),
    "alpaca_gpt4": ("alpaca_gpt4/alpaca_gpt4_1000.json", 1000),
    "dolly": ("human_written/dolly_2400.jsonl", 2400),
}

HUB_ROWS = {
    "lima": ("train.jsonl", {"conversations": ["Hi", "Hello!", "Bye", "See you."]}),
    "no_robots": ("data/train-00000-of-00001.parquet", MESSAGES),
    "alpaca_gpt4": (
        "data/train-00000-of-00001-abc.parquet",
        {"instruction": "Add", "input": "1 and 2", "output": "3"},
    ),
    "dolly": (
        "databricks-dolly-15k.jsonl",
        {"instruction": "Who?", "context": "Ann is here.", "response": "Ann"},
    ),
}


def test_every_ending_gives_the_same(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i}", "response": "None" if i else "007"} for i in range(3)]
    reference = list(dataset(write(tmp_path / "reference.jsonl", rows)))
    endings = ("jsonl", "ndjson", "json", "jsonl.gz", "jsonl.zst", "parquet", "csv", "tsv")
    for ending in endings:
        assert list(dataset(write(tmp_path / f"rows.{ending}", rows))) == reference, ending
    utf16 = tmp_path / "utf16.jsonl"
    utf16.write_text((tmp_path / "reference.jsonl").read_text(), encoding="utf-16")
    assert list(dataset(utf16)) == reference
    assert said(reference[0]) == [("user", "question 0"), ("assistant", "007")]


def test_a_folder_a_pattern_and_what_datasets_saved(tmp_path: Path) -> None:
    import datasets

    rows = [{"prompt": f"question {i}", "response": "answer"} for i in range(4)]
    whole = list(dataset(write(tmp_path / "whole.jsonl", rows)))
    write(tmp_path / "folder" / "train-1.jsonl", rows[:2])
    write(tmp_path / "folder" / "train-2.jsonl", rows[2:])
    write(tmp_path / "folder" / "test.jsonl", [{"prompt": "not", "response": "read"}])
    assert list(dataset(tmp_path / "folder")) == whole
    assert list(dataset(tmp_path / "folder" / "train-*.jsonl")) == whole
    assert len(list(dataset(tmp_path / "folder", split="test"))) == 1
    with pytest.raises(UserError, match=r"no split 'dev'; it has .*train"):
        list(dataset(tmp_path / "folder", split="dev"))
    saved = datasets.Dataset.from_list(rows)
    saved.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=saved).save_to_disk(tmp_path / "splits")
    assert list(dataset(tmp_path / "saved")) == list(dataset(tmp_path / "splits")) == whole
    with pytest.raises(UserError, match="no split 'test'; it has train"):
        list(dataset(tmp_path / "splits", split="test"))


@pytest.mark.parametrize("name", DATASETS)
def test_the_hub_gives_what_a_local_file_gives(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, row = HUB_ROWS[name]
    local = read(tmp_path, row)
    snapshot = tmp_path / "snapshot"
    write(snapshot / file, [row])
    write(snapshot / "data" / "test-00000-of-00001.parquet", [{"not": "read"}])
    asked = []

    def stand_in(repo: str, **how: object) -> str:
        asked.append((repo, how["revision"], how["repo_type"]))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", stand_in)
    found = Dataset(DatasetConfig(source=name), "abc123").read()
    assert found.digest() == local.digest()
    assert asked == [(DATASETS[name].repo, "abc123", "dataset")]


def test_an_incomplete_download_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "fetch", lambda *_, **__: tmp_path)
    with pytest.raises(UserError, match=r"not complete \(there is no file\)"):
        dataset("no_robots").read()
    write(tmp_path / "data" / "train-00000-of-00002.parquet", [MESSAGES])
    with pytest.raises(UserError, match="not complete"):
        dataset("no_robots").read()


_LINES = b"".join(b'{"prompt": "%d", "response": "a"}\n' % (i * i) for i in range(9_999))


def _with_a_hole(content: bytes) -> bytes:
    return content[:100] + bytes(50) + content[150:]


def test_frames_of_zstandard_are_read_one_after_another(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(zstandard.compress(_LINES) + zstandard.compress(_LINES))
    assert dataset(path).read().given == 2 * 9_999


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "[" * 100_000, "{}", '{"_data_files": 3}', '{"_data_files": [3]}',
     '{"_data_files": []}', '{"_data_files": [{"filename": 3}]}'],
)  # fmt: skip
def test_a_damaged_folder_of_save_to_disk_is_named(content: str, tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([EXCHANGE]).save_to_disk(tmp_path / "saved")
    state = tmp_path / "saved" / "state.json"
    state.write_text(content)
    with pytest.raises(UserError, match=r"saved/state\.json(: | names no data files)"):
        dataset(tmp_path / "saved").read()


def test_a_folder_of_several_formats_is_refused_unless_it_says_which_files(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    write(folder / "a.jsonl", [EXCHANGE])
    write(folder / "b.parquet", [EXCHANGE, EXCHANGE])
    (folder / "notes.txt").write_text("no rows")
    with pytest.raises(UserError, match=r"holds b\.parquet and, in another format, a\.jsonl; give"):
        dataset(folder).read()
    assert dataset(folder / "*.jsonl").read().given == 1
    (folder / "README.md").write_text(
        "---\nconfigs:\n- {config_name: default, data_files: a.*}\n---\n"
    )
    assert dataset(folder).read().given == 1
    for readme in ("configs: [3", "configs:\n- {config_name: a, data_files: 3}"):
        (folder / "README.md").write_text(f"---\n{readme}\n---\n")
        with pytest.raises(UserError, match="is not read as a dataset"):
            dataset(folder).read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"{oops\n", "row 1: not JSON"),
        ("rows.jsonl", b'\xff{"prompt": 1}\n', "row 1: not UTF-8"),
        ("rows.jsonl", b"[" * 100_000, "nested too deeply"),
        ("rows.jsonl", b'{"a": ' + b"9" * 5_000 + b"}", "not JSON .*digits"),
        ("rows.jsonl", b"\n", "no row of .* can be used: 0 rows"),
        ("rows.json", b'[{"prompt": "a"},', "not JSON"),
        (
            "rows.jsonl.gz",
            gzip.compress(b"{}\n" * 9_999, mtime=0)[:30],
            "cannot be read to its end",
        ),
        ("rows.jsonl.gz", b"no gzip here", "cannot be read to its end"),
        ("rows.jsonl.gz", _with_a_hole(gzip.compress(_LINES)), "cannot be read to its end"),
        ("rows.csv.gz", _with_a_hole(gzip.compress(_LINES)), "not readable as CSV"),
        ("rows.jsonl.zst", b"no zstandard here", "not readable as zstandard"),
        ("rows.jsonl.zst", zstandard.compress(_LINES)[:-9], "it was cut off"),
        ("rows.jsonl.zst", zstandard.compress(_LINES)[:3], "it was cut off"),
        ("rows.jsonl.zst", zstandard.compress(_LINES) + b"more", "not readable as zstandard"),
        ("rows.parquet", b"no parquet here", "not readable as parquet"),
        ("rows.csv", b'prompt,response\n"a', "not readable as CSV"),
        ("rows.csv", b"prompt,response\na,b,c\n", "row 1: 1 values more than there are columns"),
        ("rows.txt", b"a,b\n", r"allowed endings are \.jsonl, \.ndjson, \.json, \.parquet"),
    ],
)
def test_a_bad_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        dataset(path).read()
    assert str(path) in str(caught.value)


def test_a_source_that_is_nothing_or_two_things_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"none\.jsonl does not exist"):
        dataset("none.jsonl").read()
    with pytest.raises(UserError, match=r"no file matches .*no\*"):
        dataset("no*.jsonl").read()
    with pytest.raises(UserError, match="dataset, file or folder 'limma': did you mean 'lima'"):
        dataset("limma").read()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"dataset empty: .* is not read as a dataset"):
        dataset("./empty").read()
    (tmp_path / "lima").mkdir()
    with pytest.raises(UserError, match=r"write GAIR/lima or \./lima"):
        dataset("lima").read()
    with pytest.raises(UserError, match="could not be had from the hub"):
        hub_revision(DatasetConfig(source="org/name"))


def test_a_name_is_the_sources_last_part() -> None:
    for source, name in {
        "lima": "lima",
        "org/My.Data": "My.Data",
        "data/my rows.jsonl.gz": "my-rows",
        "./some/": "some",
        "Gr\u00f6\u00dfe #1.csv": "Groe-1",
    }.items():
        assert DatasetConfig.model_validate(source).name == name
    assert DatasetConfig(name="mine", source="lima").name == "mine"


def test_a_line_separator_within_a_text_ends_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "a\u2028b", "response": "c\x85d"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8-sig")
    assert said(next(iter(dataset(path)))) == [("user", "a\u2028b"), ("assistant", "c\x85d")]


def test_identity_sees_one_byte_the_order_and_what_is_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i}", "response": "answer"} for i in range(3)]
    digests = [
        read(tmp_path, *some).digest()
        for some in (
            rows,
            rows[::-1],
            rows[:2],
            [*rows[:2], {"prompt": "question 2", "response": None}],
            [*rows[:2], {"prompt": "question I", "response": "answer"}],
            [{**row, "id": i} for i, row in enumerate(rows)],
        )
    ]
    assert len(set(digests)) == len(digests)
    assert read(tmp_path, *rows).digest() == digests[0]


def test_a_hash_tells_roles_borders_and_masks_apart() -> None:
    def of(*messages: Message) -> str:
        return content_hash(Conversation(messages))

    alike = [
        of(Message("user", "ab"), Message("assistant", "c")),
        of(Message("user", "a"), Message("assistant", "bc")),
        of(Message("assistant", "ab"), Message("user", "c")),
        of(Message("user", "ab"), Message("assistant", "c"), Message("user", "")),
        of(Message("user", "ab"), Message("assistant", "c", learned=False)),
    ]
    assert len(set(alike)) == len(alike)


def test_reading_lines_imports_nothing_heavy(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [EXCHANGE])
    code = (
        "import sys\n"
        "from ila_core.config import DatasetConfig\n"
        "from ila_core.data import Dataset\n"
        f"Dataset(DatasetConfig(source={str(path)!r}), None).read()\n"
        "heavy = ('torch', 'transformers', 'pandas', 'datasets', 'pyarrow')\n"
        "print([m for m in heavy if m in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL_FILES)
def test_real_rows_are_counted(real_data: Path, name: str) -> None:
    file, count = REAL_FILES[name]
    found = dataset(real_data / file).read()
    assert found.given == count and not found.unreadable
    assert found.left_out == ({"ends on a user turn": 1} if name == "lima" else {})
