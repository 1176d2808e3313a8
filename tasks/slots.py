"""One of the GPUs that a Prefect server counts, for as long as a step computes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ila_core.errors import UserError, first_line
from tasks.supervise import stop_if_interrupted

log = logging.getLogger("ila")

LEASE_SECONDS = 60.0
"""The least that Prefect allows: the slot of a process that was killed is free again after it."""
_ASK_AGAIN_SECONDS = 5.0


@contextmanager
def slot(limit: str | None, label: str) -> Iterator[None]:
    """Hold one slot of the global concurrency limit called `limit`; without one, hold nothing.

    A lease that cannot be renewed ends the step, which goes on from its checkpoint another time:
    its GPU may be somebody else's by then.

    Args:
        limit: of the Prefect server at `PREFECT_API_URL` (`ILA_GPU_LIMIT`).
        label: of the step, for the log.

    Raises:
        UserError: there is no such limit, or no server of which to ask it.
        Interrupted: the run was told to end.
    """
    if limit is None:
        yield
        return
    if not os.environ.get("PREFECT_API_URL"):
        raise UserError(
            f"ILA_GPU_LIMIT={limit} counts the GPUs of a Prefect server: set PREFECT_API_URL to it"
        )
    with ExitStack() as held:
        _acquire(limit, label, held)
        yield


def _acquire(limit: str, label: str, held: ExitStack) -> None:
    from prefect.concurrency.asyncio import (
        AcquireConcurrencySlotTimeoutError,
        ConcurrencySlotAcquisitionError,
    )
    from prefect.concurrency.sync import concurrency

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
            raise UserError(
                f"ILA_GPU_LIMIT={limit}: {first_line(error)}. Make it with the number of GPUs: "
                f"prefect global-concurrency-limit create {limit} --limit 1"
            ) from error
