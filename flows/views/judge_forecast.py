"""The forecast of requests to a judge's endpoint, printed before the first request."""

from collections.abc import Collection, Sequence

import typer

from ila_core.config import RuntimeConfig
from ila_core.evaluate.judged import Judged
from ila_core.judge.budget import Budget, Forecast
from tasks.cache.payloads import fetch
from tasks.cache.plan import Planned
from tasks.cache.step import Step
from tasks.steps.evaluate.answers import load


def asks_an_endpoint(step: Step) -> bool:
    """Return whether computing `step` sends requests; one process sends all of a command."""
    judge = step.given["evaluate"].judge if _is_judged(step) else None
    return judge is not None and judge.kind == "openai"


def announce(planned: Sequence[Planned], again: Collection[str]) -> None:
    """Print one line about the requests of all missing steps and those to compute `again`."""
    runtime = RuntimeConfig.from_env()
    runs = {str(p.step.key): p.run for p in planned if p.step.key not in again}
    ahead: Forecast | None = None
    guessed = 0
    for step in (p.step for p in planned if runs.get(str(p.step.key)) is None):
        if not asks_an_endpoint(step):
            continue
        found = [runs.get(str(step.inputs[name].key)) for name in _answers(step)]
        answers = [None if run is None else load(fetch(run)) for run in found]
        guessed += answers.count(None)
        more = step.given["benchmark"].forecast(answers, runtime, step.given["evaluate"])
        ahead = more if ahead is None else ahead + more
        judge = step.given["evaluate"].judge.model
    if ahead is None:
        return
    budget = Budget(runtime.judge.requests, runtime.judge.tokens)
    typer.echo(f"judge {judge}, all in all: {ahead}; the budget is {budget}", err=True)
    if guessed:
        typer.echo("(answers not generated yet count with their greatest possible length)",
                   err=True)  # fmt: skip
    if runtime.judge.requests is not None and ahead.requests > runtime.judge.requests:
        typer.echo("that is more than the budget: judging ends there, and what was judged is kept",
                   err=True)  # fmt: skip


def _is_judged(step: Step) -> bool:
    return isinstance(step.given.get("benchmark"), Judged) and bool(_answers(step))


def _answers(step: Step) -> list[str]:
    """Return the names of the inputs that are answers, of one model or of two."""
    return [name for name in ("answers", "first", "second") if name in step.inputs]
