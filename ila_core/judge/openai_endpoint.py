"""The `openai` client sends requests to an OpenAI-compatible endpoint; its errors become ours.

The client itself tries again where that may help: after a connection that fails, a time-out, a
reply that is no chat completion, and the statuses 408, 409, 429 and 500 or more. It waits as long
as `Retry-After` asks, if that is at most two minutes (if it is more, the client gives up), else
0.5, 1, 2, ... 8 seconds.

The key is read from the environment and is in no message, not even where a server echoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from ila_core.config import JudgeLimits, OpenAiJudgeSettings
from ila_core.config.base import FrozenResult
from ila_core.errors import CheckError, UserError, first_line
from ila_core.judge.budget import KEPT
from ila_core.judge.prompts import Messages

if TYPE_CHECKING:
    import httpx2
    import openai

KEY, BASE_URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
"""The client's own variables."""
DEFAULT_URL = "https://api.openai.com/v1"
_NO_QUOTA = "insufficient_quota"
"""OpenAI's code; its status is 429, which a rate limit has too."""
_TOO_LONG = ("context_length_exceeded", "context length", "context window", "context size")
"""OpenAI's code; the words of vLLM, llama.cpp and others."""


class _Message(FrozenResult):
    content: str | None = None
    refusal: str | None = None


class _Choice(FrozenResult):
    message: _Message
    finish_reason: str | None = None


class _Usage(FrozenResult):
    prompt_tokens: int
    completion_tokens: int


class Reply(FrozenResult):
    """Has the fields of a chat completion that a verdict needs; servers differ in the others."""

    choices: tuple[_Choice, ...] = Field(min_length=1)
    model: str | None = None
    system_fingerprint: str | None = None
    usage: _Usage | None = None

    @property
    def text(self) -> str:
        return self.choices[0].message.content or ""

    @property
    def refused(self) -> bool:
        choice = self.choices[0]
        filtered = choice.finish_reason == "content_filter"
        return filtered or bool(choice.message.refusal) or choice.message.content is None

    @property
    def cut(self) -> bool:
        """Return whether it ended by its length: what it was about to say is missing."""
        return self.choices[0].finish_reason == "length"


class TooLong(Exception):
    """The prompt does not fit the judge's context."""


class Endpoint:
    """Sends requests, and translates what the client raises.

    Args:
        environment: holds the key and, if not OpenAI's, the base URL.
        limits: the time-out, and how often the client tries again.
        before: is called before each HTTP request, retries included; what it raises prevents the
            request and ends `complete`.

    Raises:
        UserError: no key, or a base URL that is none.
    """

    def __init__(
        self, environment: Mapping[str, str], limits: JudgeLimits, before: Callable[[], None]
    ) -> None:
        self._key = environment.get(KEY, "").strip()
        url = environment.get(BASE_URL, "").strip() or DEFAULT_URL
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                f"{BASE_URL}: not an address; allowed is one like http://127.0.0.1:8000/v1"
            )
        self.host = parts.hostname
        """The address without user, password and path, so that messages can name it."""
        if not self._key:
            raise UserError(
                f"{KEY} is not set, so {self.host} would not answer; set it to the judge's key "
                "(for a server that wants none, to any text)"
            )
        if not (self._key.isascii() and self._key.isprintable() and " " not in self._key):
            raise UserError(
                f"{KEY} holds a space, a line break or a letter that no key has; is it two keys?"
            )
        import openai

        hooks = {"request": [lambda _: before()], "response": [_decide_on_retry]}
        self._client = openai.OpenAI(
            api_key=self._key,
            base_url=url,
            timeout=limits.timeout,
            max_retries=limits.max_retries,
            http_client=openai.DefaultHttpxClient(event_hooks=hooks),
        )

    def close(self) -> None:
        self._client.close()

    def complete(self, messages: Messages, settings: OpenAiJudgeSettings) -> Reply:
        """Send `messages` and return the reply, after as many retries as the limits allow.

        Raises:
            TooLong: the prompt does not fit the context.
            UserError: the server does not accept the key, the model or the request.
            CheckError: there is no quota left, or the last retry failed.
        """
        import openai

        try:
            response = self._client.chat.completions.with_raw_response.create(
                model=settings.model,
                messages=list(messages),
                max_tokens=settings.max_tokens,
                temperature=settings.temperature,
                n=1,
            )
        except openai.APIStatusError as error:
            raise self._explained(error, settings.model) from None
        except openai.APIConnectionError as error:
            raise self._failed(error, self._clean(error.__cause__ or error)) from None
        return Reply.model_validate_json(response.content)

    def _explained(self, error: openai.APIStatusError, model: str) -> Exception:
        """Return the error that says what a status other than 200 means."""
        status, said = error.status_code, self._clean(error)
        words = f"{error} {error.body}".lower()
        if status == 402 or _NO_QUOTA in (error.code, error.type):
            return CheckError(f"the judge at {self.host} has no quota left ({said}); {KEPT}")
        if status in (400, 413, 422) and any(word in words for word in _TOO_LONG):
            return TooLong(said)
        if status in (401, 403):
            return UserError(f"the judge at {self.host} does not accept the key in {KEY} ({said})")
        if status == 404:
            return UserError(
                f"the judge at {self.host} knows no model {model!r}, or {BASE_URL} is not the "
                f"address of its API, which usually ends in /v1 ({said})"
            )
        if status in (408, 409, 429) or status >= 500:
            return self._failed(error, said)
        return UserError(f"the judge at {self.host} does not take the request ({said}); {KEPT}")

    def _failed(self, error: openai.APIError, said: str) -> CheckError:
        """Return the error after the last retry."""
        tries = int(error.request.headers["x-stainless-retry-count"]) + 1
        return CheckError(
            f"the judge at {self.host} failed {tries} times in a row, at last: {said}; {KEPT}: run "
            "again once it answers"
        )

    def _clean(self, error: BaseException) -> str:
        """Return what `error` says, in one line and without the key."""
        return first_line(error).replace(self._key, "***")[:300]


def _decide_on_retry(response: httpx2.Response) -> None:
    """Correct the client where it takes a spent quota for a rate limit, or any 200 for a reply."""
    import httpx2

    content = response.read()
    if response.is_success:
        try:
            Reply.model_validate_json(content)
        except ValidationError:
            raise httpx2.RemoteProtocolError("the reply is no chat completion") from None
    elif _NO_QUOTA.encode() in content:
        response.headers["x-should-retry"] = "false"
