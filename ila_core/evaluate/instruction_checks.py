"""Checks of an answer to an instruction that need no judge."""

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Literal, NamedTuple

Passes = Callable[[str], bool]
"""Says whether an answer's text passes."""


class Check(NamedTuple):
    kind: Literal["format", "length"]
    instruction: str
    """The sentence that follows the topic in the prompt."""
    passes: Passes


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text)


def sentences(text: str) -> int:
    """Count the stretches that end with `.`, `!` or `?`, and a last one without an end."""
    return len([part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if words(part)])


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines() if line.strip()]


def one_word(text: str) -> bool:
    return len(words(text)) == 1


def bulleted(count: int) -> Passes:
    """Check for exactly `count` lines, each `- ` and some text."""

    def passes(text: str) -> bool:
        found = lines(text)
        return len(found) == count and all(re.match(r"- *\w", line) for line in found)

    return passes


def capitals(text: str) -> bool:
    return any(c.isalpha() for c in text) and text == text.upper()


def small_letters(text: str) -> bool:
    return any(c.isalpha() for c in text) and text == text.lower()


def json_with(key: str) -> Passes:
    """Check for one JSON object that has `key`, and no other text."""

    def passes(text: str) -> bool:
        try:
            found = json.loads(text)
        except json.JSONDecodeError:
            return False
        return isinstance(found, dict) and key in found

    return passes


def ends_with(end: str) -> Passes:
    """Check for the words `end` at the end, ignoring the punctuation after them."""
    return lambda text: re.sub(r"\W+$", "", text).endswith(end)


def quoted(text: str) -> bool:
    stripped = text.strip()
    return len(stripped) > 2 and stripped[0] == stripped[-1] == '"'


def at_most_words(count: int) -> Passes:
    return lambda text: 0 < len(words(text)) <= count


def at_least_words(count: int) -> Passes:
    return lambda text: len(words(text)) >= count


def exactly_sentences(count: int) -> Passes:
    return lambda text: sentences(text) == count


def repeats_itself(text: str, length: int = 4, most: int = 3) -> bool:
    """Return whether some sequence of `length` words occurs more than `most` times."""
    found = [w.lower() for w in words(text)]
    runs = Counter(tuple(found[i : i + length]) for i in range(len(found) - length + 1))
    return any(count > most for count in runs.values())


CHECKS: tuple[Check, ...] = (
    Check("format", "Answer with one word.", one_word),
    Check("format", "Answer with a list of exactly three lines, each beginning with '- '.",
          bulleted(3)),
    Check("format", "Write in capital letters only.", capitals),
    Check("format", "Write in small letters only, without any capital.", small_letters),
    Check("format", 'Answer with a JSON object that has the key "answer", and nothing else.',
          json_with("answer")),
    Check("format", "End your answer with the word done.", ends_with("done")),
    Check("format", "Put your whole answer in double quotation marks.", quoted),
    Check("length", "Use at most ten words.", at_most_words(10)),
    Check("length", "Use at least forty words.", at_least_words(40)),
    Check("length", "Answer in exactly one sentence.", exactly_sentences(1)),
    Check("length", "Answer in exactly three sentences.", exactly_sentences(3)),
)  # fmt: skip
