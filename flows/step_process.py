"""`python -m flows.step_process ERROR`: one step that its parent has claimed (`tasks.run.child`).

One line of JSON on standard input says which; ERROR gets what went wrong, where it was foreseen.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from flows.pipeline import ila_pipeline
from ila_core.config import Profile, RuntimeConfig
from ila_core.errors import CheckError
from ila_core.resolve import Lock
from tasks.run.supervise import end_with_parent


def main(error_file: Path) -> int:
    """Compute the step and return the exit code."""
    request = json.loads(sys.stdin.readline())
    end_with_parent()
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("ila").setLevel(logging.INFO)
    try:
        _compute(request)
    except Exception as error:
        from flows.exit_codes import explain
        from tasks.run.child import kind_of

        explained = explain(error)
        if explained is None:
            raise
        error_file.write_text(json.dumps({"kind": kind_of(error), "message": explained[1]}))
        return 1
    return 0


def _compute(request: dict[str, Any]) -> None:
    """Make the step again from the profile; its key proves that it is the one that was claimed."""
    from flows.plan.references import resolve
    from tasks.cache.store import Store
    from tasks.run.compute import StepJob, compute_step

    runtime = RuntimeConfig.from_env()
    profile = Profile.model_validate(request["profile"])
    ranking = resolve(request["ranking"]) if request["ranking"] else None
    pipeline = ila_pipeline(profile, Lock(runtime.home, online=True), ranking)
    steps = {step.key: step for step in pipeline.steps(request["until"])}
    if request["key"] not in steps:
        raise CheckError("the data or the base model changed meanwhile; run the same command again")
    store = Store(runtime, profile.model.name)
    inputs = {name: Path(folder) for name, folder in request["inputs"].items()}
    run = store.read(request["run"])
    compute_step(StepJob(steps[request["key"]], run, inputs, runtime, bar=False), store)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
