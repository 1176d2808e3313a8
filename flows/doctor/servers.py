"""The doctor's checks of servers: whether each answers, its version, and permissions there."""

import json
import os
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from flows.results.check import Check
from flows.servers.pool import GPU
from ila_core.config import RuntimeConfig
from ila_core.errors import UserError, first_line

_LEASES_ON_DISK = "prefect.server.concurrency.lease_storage.filesystem"


def mlflow(runtime: RuntimeConfig) -> list[Check]:
    """Check the store, and on a server the account, its permissions and the registry."""
    from tasks.tracking.client import open_client, shown

    where = shown(runtime.tracking_uri)
    if not runtime.tracking_uri.startswith("http"):
        return [reached("MLflow", lambda: open_client(runtime.tracking_uri) and where)]
    from tasks.tracking.access import access

    try:
        found = access(runtime.tracking_uri)
    except (OSError, UserError, ValueError) as error:
        return [Check("MLflow", "failed", f"{where} cannot be used", str(error))]
    checks = [Check("MLflow", "ok", f"{where}, {found.version}")]
    if found.user is None:
        open_to_all = "none: whoever reaches it may write, publish and delete"
        return [*checks, Check("account", "ok", open_to_all), _registry(found.rankings)]
    writes, publishes = (", ".join(x) or "nothing" for x in (found.writes, found.publishes))
    about = f"{found.user}: reads everything, caches steps in {writes}; publishes {publishes}"
    advice = (
        ""
        if found.writes
        else ("runs that compute need role member: `ila servers account` by MLflow's administrator")
    )
    return [*checks, Check("account", "ok", about, advice), _registry(found.rankings)]


def prefect() -> list[Check]:
    """Check the Prefect server, and the pool, workers and limit that deployments need."""
    api = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if not api:
        return [Check("Prefect", "ok", "temporary server, started by each run that computes")]
    address = urlsplit(api)
    where = api.replace(address.netloc, address.netloc.rpartition("@")[2])
    server = reached("Prefect", lambda: f"{where}, {_ask(api, 'admin/version')}")
    if server.state != "ok":
        advice = f"start it, or correct PREFECT_API_URL={where}: {server.advice}"
        return [Check("Prefect", "failed", server.found, advice)]
    return [server, _pool(api), _limit(api)]


def hub() -> Check:
    """Check the Hugging Face hub, which only local models and datasets do without."""
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co")

    def connect() -> str:
        with urlopen(url, timeout=5):
            return url.rpartition("@")[2]

    check = reached("model hub", connect)
    if check.state == "ok":
        return check
    advice = (
        "only local models and data sets can be used; profiles with local paths are not affected"
    )
    return Check("model hub", "missing", check.found, advice)


def reached(name: str, connect: Callable[[], str]) -> Check:
    """Return the check `name`: what `connect` returned, or that it failed."""
    try:
        return Check(name, "ok", connect())
    except (UserError, URLError, OSError, ValueError) as error:
        return Check(name, "failed", "not reachable", first_line(error))


def _registry(names: int) -> Check:
    advice = "" if names else "`ila servers reserve` makes the names, by MLflow's administrator"
    return Check("rankings", "ok", f"{names} names in the registry", advice)


def _pool(api: str) -> Check:
    try:
        pool = _ask(api, f"work_pools/{GPU}")
        workers = _ask(api, f"work_pools/{GPU}/workers/filter", {})
    except HTTPError as error:
        if error.code != 404:
            raise
        advice = "`ila servers deploy deployments` makes it; only deployments need it"
        return Check("work pool", "missing", f"there is no pool {GPU!r}", advice)
    online = sum(worker["status"] == "ONLINE" for worker in workers)
    found = f"{GPU!r} of {pool['type']} workers, {online} online"
    if pool["is_paused"]:
        return Check("work pool", "missing", f"{found}; paused", "prefect work-pool resume gpu")
    advice = f"start one: prefect worker start --pool {GPU}"
    return Check("work pool", "ok" if online else "missing", found, "" if online else advice)


def _limit(api: str) -> Check:
    try:
        limit = _ask(api, f"v2/concurrency_limits/{GPU}")
    except HTTPError as error:
        if error.code != 404:
            raise
        advice = f"prefect global-concurrency-limit create {GPU} --limit 1, with as many as GPUs"
        return Check("GPU limit", "missing", f"there is no limit {GPU!r}", advice)
    found = f"{limit['active_slots']} of {limit['limit']} slots taken"
    leases = _ask(api, "admin/settings")["server"]["concurrency"]["lease_storage"]
    if leases == _LEASES_ON_DISK:
        return Check("GPU limit", "ok", f"{found}; leases on disk")
    return Check(
        "GPU limit", "missing", f"{found}; leases in {leases.rpartition('.')[2]}",
        "a server that is killed then leaks the slots that were taken: start it with "
        f"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE={_LEASES_ON_DISK}",
    )  # fmt: skip


def _ask(api: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{api}/{path}", data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=5) as answer:
        return json.load(answer)
