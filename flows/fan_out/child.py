"""`python -m flows.fan_out.child UNTIL KEY...`: steps of a profile, in a child of `jobs`.

The profile comes as one line of JSON on standard input, which ends when the parent does.
"""

import logging
import sys
from collections.abc import Sequence

from flows.pipeline import ila_pipeline
from ila_core.config import Profile, RuntimeConfig
from ila_core.errors import CheckError, Diverged
from ila_core.resolve import Lock
from tasks.cache.step import in_order
from tasks.run.supervise import end_with_parent

DONE, FAILED, DIVERGED = 0, 1, 4


def main(until: str, keys: Sequence[str]) -> int:
    """Compute what is missing and return the exit code."""
    line = sys.stdin.readline()
    end_with_parent()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ila").setLevel(logging.INFO)
    try:
        _run(Profile.model_validate_json(line), until, set(keys))
    except Diverged as error:
        print(f"ila: {error}", file=sys.stderr)
        return DIVERGED
    except Exception as error:
        from flows.exit_codes import explain

        explained = explain(error)
        if explained is None:
            raise
        print(f"ila: {explained[1]}", file=sys.stderr)
        return FAILED
    return DONE


def _run(profile: Profile, until: str, keys: set[str]) -> None:
    from tasks.cache.store import Store
    from tasks.run.execute import run_here

    runtime = RuntimeConfig.from_env().model_copy(update={"progress": False})
    pipeline = ila_pipeline(profile, Lock(runtime.home, online=True))
    wanted = [step for step in pipeline.steps(until) if step.key in keys]
    if {step.key for step in wanted} != keys:
        raise CheckError("the data or the base model changed meanwhile; run the same command again")
    run_here(in_order(*wanted), Store(runtime, profile.model.name), runtime)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
