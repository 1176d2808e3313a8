"""One of the GPUs that a Prefect server counts, for as long as a step computes."""

import logging
import os
from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ila_core.errors import CheckError, UserError, first_line
from tasks.run.supervise import stop_if_interrupted

log = logging.getLogger("ila")

LEASE_SECONDS = 60.0
"""The least that Prefect allows: the slot of a process that was killed is free again after it."""
_ASK_AGAIN_SECONDS = 5.0


def check_limit(limit: str | None) -> None:
    """Refuse, before anything is begun, a limit of which no step could get a slot.

    Raises:
        UserError: there is no such limit, or no server of which to ask it.
    """
    if limit is None:
        return
    if not os.environ.get("PREFECT_API_URL"):
        raise UserError(
            f"ILA_GPU_LIMIT={limit} counts the GPUs of a Prefect server: set PREFECT_API_URL to it"
        )
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    try:
        with get_client(sync_client=True) as client:
            client.read_global_concurrency_limit_by_name(limit)
    except ObjectNotFound as error:
        raise UserError(
            f"ILA_GPU_LIMIT={limit}: the Prefect server has no such limit. Make it with the number "
            f"of GPUs: prefect global-concurrency-limit create {limit} --limit 1"
        ) from error


@contextmanager
def slot(limit: str | None, label: str) -> Iterator[None]:
    """Hold one slot of the global concurrency limit called `limit`; without one, hold nothing.

    A lease that cannot be renewed ends the step, which goes on from its checkpoint another time:
    its GPU may be somebody else's by then.

    Args:
        limit: of the Prefect server at `PREFECT_API_URL` (`ILA_GPU_LIMIT`).
        label: of the step, for the log.

    Raises:
        CheckError: the server gave none.
        ConnectionError: the server no longer keeps the slot.
        Interrupted: the run was told to end.
    """
    if limit is None:
        yield
        return
    lost = False
    try:
        with ExitStack() as held:
            _acquire(limit, label, held)
            try:
                yield
            except CancelledError:  # the thread that renews the lease raises it in this one
                lost = True
                raise
    except (CancelledError, Exception) as error:  # to give back what is lost may fail as well
        if not lost:
            raise
        raise ConnectionError(
            f"{label} ended: the Prefect server no longer keeps its slot of the limit {limit!r} "
            "(it was away, or started anew); the same command goes on from the last checkpoint"
        ) from error


def _acquire(limit: str, label: str, held: ExitStack) -> None:
    from prefect.concurrency.asyncio import (
        AcquireConcurrencySlotTimeoutError,
        ConcurrencySlotAcquisitionError,
    )
    from prefect.concurrency.sync import concurrency

    # It calls each time that no slot was free an error, and a failure is raised as well.
    logging.getLogger("prefect._internal.concurrency").addFilter(_not_of_slots)
    for name in ("prefect.concurrency", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_brief)
    waits = False
    while True:
        stop_if_interrupted()
        asked = concurrency(
            limit, strict=True, lease_duration=LEASE_SECONDS, timeout_seconds=_ASK_AGAIN_SECONDS
        )
        try:
            held.enter_context(asked)
            return
        except AcquireConcurrencySlotTimeoutError:
            if not waits:
                log.info("%-32s waits for a slot of the limit %r", label, limit)
                waits = True
        except ConcurrencySlotAcquisitionError as error:
            raise CheckError(f"no slot of the limit {limit!r}: {first_line(error)}") from error


def _not_of_slots(record: logging.LogRecord) -> bool:
    return "ConcurrencySlotAcquisition" not in record.getMessage()


def _brief(record: logging.LogRecord) -> bool:
    if "lease renewal" in record.getMessage():
        record.exc_info = None  # two tracebacks of its client, before the one message
    return True
