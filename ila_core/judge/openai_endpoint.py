"""One request to an OpenAI-compatible endpoint by the `openai` client, and what can go wrong.

The client's own retries are off: it would take a spent quota for a rate limit and ask again, and
its requests would not be in the budget. Which failures pass and which do not is decided here; who
waits is `ila_core.judge.openai_judge`.

The key is read from the environment and is in no message, not even where a server echoes it.
"""

import email.utils
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from ila_core.errors import CheckError, UserError, first_line
from ila_core.judge.budget import KEPT
from ila_core.judge.prompts import Messages

KEY, BASE_URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
"""The variables that the client's own users have set."""
DEFAULT_URL = "https://api.openai.com/v1"
_PASSING = (408, 409, 429)
_TOO_LONG = ("context_length_exceeded", "context length", "context window", "context size")
"""OpenAI's code; the words of vLLM, llama.cpp and others."""


@dataclass(frozen=True)
class Reply:
    text: str
    refused: bool
    cut: bool
    """Ended by its length, so that what it was about to say is missing."""
    model: str
    fingerprint: str | None
    tokens: tuple[int, int] | None
    """Tokens of prompt and reply, if the server gives them."""


class TooLong(Exception):
    """The prompt does not fit the judge's context."""


class Passing(Exception):
    """A failure after which the same request may succeed."""

    def __init__(self, reason: str, *, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after
        """Seconds, where the server says."""


class Endpoint:
    """
    Args:
        environment: holds the key and, if not OpenAI's, the base URL.
        timeout: seconds without a byte.

    Raises:
        UserError: no key, no `openai`, or a base URL that is none.
    """

    def __init__(self, environment: Mapping[str, str], *, timeout: float) -> None:
        if find_spec("openai") is None:
            raise UserError(
                'a judge needs the openai client, which is not installed: pip install "ila[eval]"'
            )
        self._key = environment.get(KEY, "").strip()
        url = environment.get(BASE_URL, "").strip() or DEFAULT_URL
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                f"{BASE_URL}: not an address; allowed is one like http://127.0.0.1:8000/v1"
            )
        self.host = parts.hostname
        """Without user, password and path, so that it can be named."""
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

        self._client = openai.OpenAI(
            api_key=self._key, base_url=url, timeout=timeout, max_retries=0
        )

    def __repr__(self) -> str:
        return f"Endpoint({self.host})"

    def close(self) -> None:
        self._client.close()

    def complete(
        self, messages: Messages, *, model: str, max_tokens: int, temperature: float
    ) -> Reply:
        """The reply to `messages`.

        Raises:
            TooLong, Passing: see there.
            UserError: the server does not accept the key, the model or the request.
            CheckError: there is no quota left, or a failure that will not pass.
        """
        import openai

        try:
            completion = self._client.chat.completions.create(
                model=model,
                messages=list(messages),
                max_tokens=max_tokens,
                temperature=temperature,
                n=1,
            )
        except openai.APITimeoutError:
            raise Passing("no answer in time") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise Passing(f"no connection ({self._clean(first_line(cause))})") from None
        except openai.APIStatusError as error:
            raise self._status(error, model) from None
        except (openai.APIError, ValueError) as error:
            raise Passing(f"an answer that cannot be read ({type(error).__name__})") from None
        return self._reply(completion)

    def _reply(self, completion: Any) -> Reply:
        """The parts that count, from an object that the client does not check."""
        try:
            choice = completion.choices[0]
            message, usage = choice.message, completion.usage
            content, model = message.content, completion.model
            refused = bool(getattr(message, "refusal", None)) or (
                choice.finish_reason == "content_filter"
            )
            if not isinstance(content, str | None) or not isinstance(model, str | None):
                raise TypeError("a text is not a text")
            tokens = (
                None if usage is None else (int(usage.prompt_tokens), int(usage.completion_tokens))
            )
            return Reply(
                text=content or "",
                refused=refused or content is None,
                cut=choice.finish_reason == "length",
                model=model or "",
                fingerprint=completion.system_fingerprint or None,
                tokens=tokens,
            )
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise Passing(
                f"an answer that is no chat completion ({type(error).__name__})"
            ) from None

    def _status(self, error: Any, model: str) -> Exception:
        """What a status other than 200 means."""
        status, said = error.status_code, self._clean(first_line(error))
        code = str(error.code or error.type or "")
        if status == 402 or "insufficient_quota" in (error.code, error.type):
            return CheckError(f"the judge at {self.host} has no quota left ({said}); {KEPT}")
        words = f"{code} {said}".lower()
        if status in (400, 413, 422) and any(word in words for word in _TOO_LONG):
            return TooLong(said)
        if status in (401, 403):
            return UserError(f"the judge at {self.host} does not accept the key in {KEY} ({said})")
        if status == 404:
            return UserError(
                f"the judge at {self.host} knows no model {model!r}, or {BASE_URL} is not the "
                f"address of its API, which usually ends in /v1 ({said})"
            )
        if status in _PASSING or status >= 500:
            return Passing(f"status {status} ({said})", after=_retry_after(error.response.headers))
        return UserError(f"the judge at {self.host} does not take the request ({said}); {KEPT}")

    def _clean(self, text: str) -> str:
        """`text` in one line, without the key."""
        return text.replace(self._key, "***")[:300]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from the standard header (a number or a date) or OpenAI's in milliseconds."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers.get(name, "")) * unit)
        except ValueError:
            pass
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    return max(0.0, date.timestamp() - time.time())
