"""The claim of a step: a RUNNING run with a heartbeat, which wins where it sees no other.

A claim *is* the run, and the others wait for it. A claim is made first and looks for others then,
so of two at once the one that looks last sees the other, whatever their clocks say.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil

from ila_core.errors import CheckError, first_line
from tasks.cache.lookup import Lookup
from tasks.cache.mlflow_lookup import step_run
from tasks.cache.step import Step
from tasks.cache.step_run import StepRun
from tasks.tracking.client import shown

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("ila")

_BEAT_SECONDS = 5.0
_POLL_SECONDS = 1.0
_POLLS_FOR_OTHERS = 3
_MAX_PARAM = 6000  # MLflow refuses longer values


class Claims:
    """What of a store claims a step, and keeps the claim alive."""

    client: MlflowClient
    lookup: Lookup
    experiment_id: str
    _uri: str
    _origin: dict[str, str]

    def claim(
        self,
        step: Step,
        upstream: str,
        waiting: Callable[[StepRun], None],
        instead_of: Collection[str] = (),
    ) -> tuple[StepRun, bool]:
        """Claim `step`. Returns its run, and whether the caller must compute it (else finished).

        Args:
            step: with a known key.
            upstream: `upstream_digest` of its inputs' runs.
            waiting: told, every second, of the run of somebody else's that is waited for.
            instead_of: ids of finished runs that will not do: they are being refreshed.
        """
        assert step.key is not None
        while True:
            if (done := self._hit(step.key, upstream, instead_of)) is not None:
                return done, False
            alive = [run for run in self._claims(step.key) if run.alive]
            if alive:
                waiting(alive[0])
                time.sleep(_POLL_SECONDS)
                continue
            mine = self._create(step, upstream)
            if self._alone(mine) and self._hit(step.key, upstream, instead_of) is None:
                return mine, True
            self.client.set_terminated(mine.run_id, "KILLED")

    def _alone(self, mine: StepRun) -> bool:
        """Whether nobody else claims the step.

        Of several at once the first waits a while for the others to withdraw, as all do but one
        that saw itself alone before.
        """
        for _ in range(_POLLS_FOR_OTHERS):
            alive = [run.run_id for run in self._claims(mine.key) if run.alive]
            if mine.run_id not in alive:
                raise CheckError(
                    f"MLflow at {shown(self._uri)} does not show run {mine.run_id}, which was "
                    "just made there: is its clock, or this machine's, wrong?"
                )
            if alive == [mine.run_id] or alive[0] != mine.run_id:
                return alive == [mine.run_id]
            time.sleep(_POLL_SECONDS)
        return False

    def _hit(self, key: str, upstream: str, but: Collection[str]) -> StepRun | None:
        """Find the oldest valid run of `key` made from the inputs with the digest `upstream`."""
        found = (r for r in self.lookup.finished(key) if r.upstream == upstream)
        return next((run for run in found if run.run_id not in but), None)

    def _claims(self, key: str) -> list[StepRun]:
        """Find the RUNNING runs of `key`; close those whose process on this machine has died."""
        claims = []
        for run in self.lookup.running(key):
            if _owner_is_gone(run.tags.get("ila.owner", "")):
                self.client.set_terminated(run.run_id, "KILLED")
            else:
                claims.append(run)
        return claims

    def _create(self, step: Step, upstream: str) -> StepRun:
        from mlflow.entities import Param

        tags = {
            "ila.key": str(step.key),
            "ila.step": step.name,
            "ila.version": str(step.version),
            "ila.state": "valid",
            "ila.upstream": upstream,
            "ila.heartbeat": str(time.time()),
            "ila.owner": owner(),
            "ila.label": step.label,
        }
        tags |= self._origin
        # Not by which it is found: what an arm is called changes no result.
        tags |= {f"ila.{n}": str(v) for n, v in step.given.get("names", {}).items()}
        run = self.client.create_run(self.experiment_id, run_name=step.title, tags=tags)
        params = [Param(_param_name(n), v[:_MAX_PARAM]) for n, v in step.fields.items()]
        for start in range(0, len(params), 100):  # what MLflow takes in one batch
            self.client.log_batch(run.info.run_id, params=params[start : start + 100])
        return step_run(run)

    @contextmanager
    def heartbeat(self, run: StepRun) -> Iterator[None]:
        """Keep the claim alive; a failure inside marks the run FAILED and goes on up."""
        from mlflow.exceptions import MlflowException

        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(_BEAT_SECONDS):
                try:
                    self.client.set_tag(run.run_id, "ila.heartbeat", str(time.time()))
                except MlflowException as error:
                    # Without beats another may start on this step too, which harms nobody.
                    log.warning("MLflow took no heartbeat: %s", first_line(error))

        thread = threading.Thread(target=beat, daemon=True, name=f"heartbeat {run.run_id[:8]}")
        thread.start()
        try:
            yield
        except BaseException:
            try:
                self.client.set_terminated(run.run_id, "FAILED")
            except MlflowException as error:
                # What went wrong inside says more. Without beats the claim is nobody's any more.
                log.warning("MLflow does not know yet that it failed: %s", first_line(error))
            raise
        finally:
            stop.set()
            thread.join()


def owner() -> str:
    """This process, wherever it is asked from: `ila.owner` of what it computes."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.0f}"


def _owner_is_gone(owner: str) -> bool:
    """Whether the claim's process ran on this machine and has ended (a `kill -9`, say)."""
    host, pid, born = ([*owner.split(":"), "", ""])[:3]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" != born
    except psutil.NoSuchProcess:
        return True


def _param_name(name: str) -> str:
    """MLflow allows letters, digits and `_-. :/` in a parameter's name."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)[:250]
