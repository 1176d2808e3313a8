"""The hub, played by a server on this machine: what it may answer, and what a user then reads."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ila_core import hub
from ila_core.config import DatasetConfig
from ila_core.data import Dataset
from ila_core.data.sources import hub_revision
from ila_core.errors import UserError
from ila_core.resolve import Lock, Unknown

LIMA = b'{"conversations": ["Hi", "Hello!"]}\n'
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, code, body = 404, "RepoNotFound", b"{}"
        if "/acme/gated" in self.path:
            status, code = 403, "GatedRepo"
        elif "/acme/old" in self.path:
            status, code = 404, "RevisionNotFound"
        elif "/acme/good" in self.path:
            status, code = 200, ""
            body = f'{{"id": "acme/good", "sha": "{COMMIT}", "siblings": []}}'.encode()
        elif "/GAIR/lima" in self.path:
            status, code, body = 200, "", self._lima()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", '"1234"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def _lima(self) -> bytes:
        if "/resolve/" in self.path:
            return LIMA
        file = {"type": "file", "path": "train.jsonl", "size": len(LIMA), "oid": "0" * 40}
        if "/tree/" in self.path:
            return json.dumps([file]).encode()
        siblings = [{"rfilename": "train.jsonl"}]
        return json.dumps({"id": "GAIR/lima", "sha": COMMIT, "siblings": siblings}).encode()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{httpd.server_port}"
    _use(endpoint, monkeypatch, tmp_path)
    yield endpoint
    httpd.shutdown()
    httpd.server_close()


def _use(endpoint: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    from huggingface_hub import constants, hf_api

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    resolve = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(hf_api.api, "endpoint", endpoint)


def test_the_current_commit_is_looked_up(server: str) -> None:
    assert hub.current_commit("acme/good", kind="model") == COMMIT
    assert hub.current_commit("acme/good", kind="dataset") == COMMIT


def test_a_dataset_is_downloaded_once_and_read_offline_after(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    local = tmp_path / "lima.jsonl"
    local.write_bytes(LIMA)
    ours = list(Dataset(DatasetConfig(source=str(local)), None))
    config = DatasetConfig(source="lima")
    commit = hub_revision(config)
    assert commit == COMMIT
    assert list(Dataset(config, commit)) == ours
    _use("http://127.0.0.1:9", monkeypatch, tmp_path)
    assert list(Dataset(config, commit)) == ours


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("acme/gated", r"is gated: accept its terms .* HF_TOKEN .* `source:` to a local copy"),
        ("acme/missing", r"does not exist on the hub, or is private: check the name"),
        ("not/a/name", r"does not exist on the hub"),
        ("acme/old", r"has no revision 'abc'"),
    ],
)
def test_a_refusal_says_what_to_do(repo: str, message: str, server: str) -> None:
    with pytest.raises(UserError, match=message):
        hub.fetch(repo, ["*.jsonl"], "abc", kind="dataset")


def test_an_unreachable_hub_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _use("http://127.0.0.1:9", monkeypatch, tmp_path)
    for ask in (
        lambda: hub.fetch("acme/good", ["*"], None, kind="model"),
        lambda: hub.current_commit("acme/good", kind="model"),
    ):
        with pytest.raises(UserError, match=r"could not be had .* HF_ENDPOINT .* local folder"):
            ask()


def test_an_error_of_this_machine_is_not_blamed_on_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(OSError, match="No space left"):
        hub.fetch("acme/good", ["*"], None, kind="model")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub's cache with one commit of `acme/data` and of LIMA, and no network."""
    from huggingface_hub import constants

    for repo, file in (("acme--data", "rows.jsonl"), ("GAIR--lima", "train.jsonl")):
        folder = tmp_path / "hub" / f"datasets--{repo}"
        for part, content in {
            f"snapshots/{COMMIT}/{file}": LIMA,
            "refs/main": COMMIT.encode(),
        }.items():
            (folder / part).parent.mkdir(parents=True)
            (folder / part).write_bytes(content)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("source", ["lima", "acme/data"])
@pytest.mark.parametrize("online", [True, False], ids=["run", "plan"])
def test_offline_the_cached_commit_is_taken_and_said(
    source: str, online: bool, offline: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock = Lock(offline / "home", online=online)
    config = DatasetConfig(source=source)
    found = lock.dataset(config)
    assert lock.dataset_revision(config) == COMMIT
    assert found == Dataset(config, COMMIT).read().digest()
    assert f"is taken at commit {COMMIT}, which is in its cache" in caplog.text


def test_offline_what_no_cache_has_is_unknown_to_a_plan_and_refused_by_a_run(offline: Path) -> None:
    config = DatasetConfig(source="acme/other")
    assert isinstance(Lock(offline / "plan", online=False).dataset(config), Unknown)
    with pytest.raises(UserError, match="could not be had from the hub"):
        Lock(offline / "run", online=True).dataset(config)


@pytest.mark.parametrize("content", ["{oops", "[1]", "[" * 100_000, '{"a": ' + "9" * 5_000 + "}"])
def test_a_damaged_file_of_what_names_resolve_to_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text(content)
    with pytest.raises(UserError, match=r"lock\.json: .*; delete it, it is made anew"):
        Lock(tmp_path, online=False).rows("key")
