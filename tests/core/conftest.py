"""Judges that answer on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from judge_server import JudgeServer, Script


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Script], JudgeServer]]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    servers: list[JudgeServer] = []

    def start(script: Script) -> JudgeServer:
        servers.append(JudgeServer(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
