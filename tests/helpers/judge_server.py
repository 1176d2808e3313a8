"""A judge on loopback that speaks the chat protocol, and every way in which a real one fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "gpt-4-0613"
KEY = "sk-not-a-real-key-0123456789"


@dataclass
class Act:
    """What the server does with one request."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    """Say nothing until the server is closed."""
    cut: bool = False
    """Announce the whole body, send half, and close."""


def say(text: str | None, **changed: Any) -> Act:
    """A chat completion, with `changed` in place of its fields (`None` leaves one out)."""
    message = {"role": "assistant", "content": text, "refusal": changed.pop("refusal", None)}
    completion = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": changed.pop("finish_reason", "stop"),
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    } | changed
    return Act(json.dumps({k: v for k, v in completion.items() if v is not None}).encode())


def rate(grade: float) -> Act:
    return say(f"It is what it is. Rating: [[{grade}]]")


def fail(status: int, code: str | None = None, message: str = "no", **headers: str) -> Act:
    """An error in OpenAI's form; `retry_after="3"` becomes the header."""
    body = {"error": {"message": message, "type": code, "code": code, "param": None}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Act(json.dumps(body).encode(), status, named)


@dataclass
class Request:
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"])


Script = Callable[[int, Request], Act]


class JudgeServer:
    """Answers each request by what `script` says of it.

    Args:
        script: gets the number of the request, from 0, and the request.
    """

    def __init__(self, script: Callable[[int, Request], Act]) -> None:
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._at_once = 0
        self._script, self._lock = script, threading.Lock()
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                request = Request(
                    json.loads(content), {k.lower(): v for k, v in self.headers.items()}
                )
                with server._counted(request) as number:
                    act = server._act(self.path, number, request)
                if act.hang:
                    server.closing.wait(30)
                    self.close_connection = True
                    return
                self.send_response(act.status)
                for name, value in {"Content-Type": "application/json", **act.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(act.body)))
                self.end_headers()
                self.wfile.write(act.body[: len(act.body) // 2] if act.cut else act.body)
                self.close_connection = self.close_connection or act.cut

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False  # so that closing waits for them

            def handle_error(self, *_: object) -> None:
                pass  # a client that has given up

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        port = self._server.server_address[1]
        return {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}

    @contextmanager
    def _counted(self, request: Request) -> Iterator[int]:
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield number
        finally:
            with self._lock:
                self._at_once -= 1

    def _act(self, path: str, number: int, request: Request) -> Act:
        if path != "/v1/chat/completions":
            return fail(404, message=f"no {path}")
        if request.headers.get("authorization") != f"Bearer {KEY}":
            given = request.headers.get("authorization")
            return fail(401, "invalid_api_key", f"Incorrect API key provided: {given}")
        return self._script(number, request)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def closed_port() -> str:
    """An address at which nobody listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return f"http://127.0.0.1:{server.server_address[1]}/v1"
