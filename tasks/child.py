"""`python -m tasks.child RESULT`: one claimed step, in a process of its own.

The step comes as a pickle on standard input, from the process that started this one and nobody
else (`tasks.isolated`); nothing that is shared is ever pickled. RESULT gets the error, if any.
"""

from __future__ import annotations

import json
import logging
import pickle
import sys
from pathlib import Path

from tasks.supervise import end_with_parent


def main(result: Path) -> int:
    """Compute the step and return the exit code."""
    order = pickle.load(sys.stdin.buffer)
    end_with_parent()
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("ila").setLevel(logging.INFO)

    from tasks.compute import compute_step
    from tasks.isolated import EXPECTED
    from tasks.store import Store

    try:
        compute_step(order, Store(order.runtime, order.base_model))
    except tuple(EXPECTED.values()) as error:
        kind = next(name for name, known in EXPECTED.items() if isinstance(error, known))
        result.write_text(json.dumps({"kind": kind, "message": str(error)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
