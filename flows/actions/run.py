"""`ila run`, `ila search` and `ila plan`: plan first, then import Prefect and torch if needed."""

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from flows.exit_codes import chain
from flows.plan.refresh import NOTHING, Refresh
from flows.results.profile_plan import ProfilePlan, plan_profile
from flows.views.judge_forecast import announce
from flows.views.run import show_result
from ila_core.config import RuntimeConfig
from ila_core.config.load import Given
from ila_core.errors import UserError
from ila_core.locks import check_locks
from tasks.cache.step_run import StepRun


def run_until(
    until: str, given: Given, overrides: Sequence[str], refresh: Refresh,
    *, rehash: bool, as_json: bool,
) -> None:  # fmt: skip
    """Compute the missing steps up to `until`, then show the result."""
    start = time.perf_counter()
    planned = plan_profile(given, overrides, rehash=rehash, online=True, until=until)
    runs = finished(planned, until, refresh)
    show_result(planned, runs, until, time.perf_counter() - start, as_json=as_json)


def finished(planned: ProfilePlan, until: str, refresh: Refresh = NOTHING) -> dict[str, StepRun]:
    """Compute the missing steps; return the finished run of every planned step, by key."""
    again = dict.fromkeys(refresh.keys([p.step for p in planned.steps]), refresh.reason)
    cached = {str(p.step.key): p.run for p in planned.steps if p.run is not None}
    if len(cached) == len(planned.steps) and not again and not _shown_by_a_server():
        return cached
    announce(planned.steps, again)
    return _run_flow(planned, until, again)


def _shown_by_a_server() -> bool:
    """Return whether a Prefect server's UI must show even a run that computes nothing."""
    return "PREFECT_API_URL" in os.environ and not without_prefect()


def _run_flow(planned: ProfilePlan, until: str, refresh: Mapping[str, str]) -> dict[str, StepRun]:
    ranking = planned.ranking.pinned if planned.ranking else None
    if without_prefect():
        with followed():
            from flows.loop import run_loop

            return run_loop(planned.profile, until, refresh, ranking)
    with prefect_ready():
        from flows.step_flow import run_pipeline

        return run_pipeline(planned.profile, until, refresh, ranking)


def without_prefect() -> bool:
    """Return whether `ILA_PREFECT=off` is set."""
    return RuntimeConfig.from_env().prefect == "off"


def need_prefect(what: str) -> None:
    """Refuse the action `what` under `ILA_PREFECT=off`.

    Raises:
        UserError: when `ILA_PREFECT=off` is set.
    """
    if without_prefect():
        raise UserError(
            f"{what} with ILA_PREFECT=off: its processes are tasks of a Prefect flow. Unset it"
        )


@contextmanager
def followed() -> Iterator[None]:
    """Show the log of the steps inside the block, and end the command on Ctrl-C."""
    log, to_stderr = logging.getLogger("ila"), logging.StreamHandler()
    log.addHandler(to_stderr)
    try:
        yield
    except BaseException as error:
        # What a server that the same Ctrl-C has ended cannot be told is no news.
        if not any(isinstance(cause, KeyboardInterrupt) for cause in chain(error)):
            raise
        print("ila: interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)
    finally:
        log.removeHandler(to_stderr)


@contextmanager
def prefect_ready() -> Iterator[None]:
    """Set up Prefect for a flow inside the block, and do what `followed` does."""
    home = RuntimeConfig.from_env().home
    if "PREFECT_API_URL" not in os.environ:
        home.mkdir(parents=True, exist_ok=True)
        check_locks(home)  # without one its server would not start, and say nothing of why
    # The embedded Prefect keeps its database beside the embedded MLflow, where `ila ui` finds it.
    os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
    # A person follows the steps; Prefect's own log, whole in its UI, would bury them.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")  # whole dictionaries
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # The default is 20 s, which its server has exceeded beside other tests on two cores.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "ila")
    with followed():
        yield
