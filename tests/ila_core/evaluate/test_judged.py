"""What a judge has said: kept through crashes and kills, within a budget, by one judge only."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ila_core.compare.arms import compare
from ila_core.compare.results import Evaluation
from ila_core.errors import CheckError, UserError
from ila_core.inference.generate import Answer
from ila_core.inference.questions import Question
from ila_core.judge.openai_judge import OpenAiJudge
from tests.conftest import wait_until
from tests.helpers.judge_server import KEY, Act, Request, fail, rate, say
from tests.helpers.judged import ANSWERS, VERDICTS, Serve, graded, judge_at, one
from tests.helpers.spoken import QUESTIONS


@pytest.mark.slow
@pytest.mark.never_rerun
def test_a_crash_before_the_last_verdict_costs_one_request(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda number, _: fail(400, "bug") if number == VERDICTS - 1 else rate(5))
    with pytest.raises(UserError, match="what was judged is kept"):
        graded(judge_at(server, concurrency=1), tmp_path)
    assert len(server.requests) == VERDICTS
    again = serve(lambda *_: rate(5))
    result = graded(judge_at(again), tmp_path)
    assert len(again.requests) == 1 and len(result.items) == 4

    # All of it is there now: no server, no key, no network.
    judge = judge_at(again)
    judge._environment = {}
    assert graded(judge, tmp_path) == result and len(again.requests) == 1


CHILD = """
import sys
from pathlib import Path
from ila_core.inference.generate import Answer
from ila_core.inference.questions import Question
from ila_core.config import JudgeLimits, OpenAiJudgeSettings
from ila_core.judge.grade import grade
from ila_core.judge.openai_judge import OpenAiJudge
from ila_core.judge.prompts import JudgePrompts
from ila_core.judge.ask import VerdictStore

questions = [Question(id=n, category="generic", turns=(f"q{n}",)) for n in range(80)]
answers = [Answer(question_id=n, turns=(f"a{n}",)) for n in range(80)]
settings = OpenAiJudgeSettings(model="gpt-4", repeats=1)
judge = OpenAiJudge(settings, JudgePrompts.load(None), limits=JudgeLimits(concurrency=1))
store = VerdictStore(Path(sys.argv[1]))
print(grade(questions, answers, judge, store, benchmark="vicuna", generation={}).value)
"""


@pytest.mark.slow
@pytest.mark.never_rerun
def test_a_kill_after_79_questions_costs_one_request(serve: Serve, tmp_path: Path) -> None:
    waiting = threading.Event()

    def script(number: int, request: Request) -> Act:
        if number == 79:
            waiting.set()
            return Act(hang=True)
        return rate(5)

    server = serve(script)

    def child() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)],
            env={**os.environ, **server.environment},
            stdout=subprocess.PIPE,
            text=True,
        )

    killed = child()
    wait_until(waiting.is_set, killed)
    killed.kill()
    killed.communicate()
    assert len(server.requests) == 80
    out, _ = child().communicate()
    assert out == "5.0\n" and len(server.requests) == 81


def test_what_is_under_way_when_another_fails_is_kept(serve: Serve, tmp_path: Path) -> None:
    first_failed = threading.Event()

    def script(number: int, request: Request) -> Act:
        if number == 0:
            first_failed.wait(20)  # answers only after the other request has failed
            return rate(5)
        first_failed.set()
        return fail(400, "bug")

    server = serve(script)
    with pytest.raises(UserError, match="does not take the request"):
        graded(judge_at(server, concurrency=2), tmp_path)
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_more_repeats_ask_only_for_those(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda number, _: rate(5))
    graded(judge_at(server, repeats=2), tmp_path)
    graded(judge_at(server, repeats=3, attempts=5), tmp_path)
    assert len(server.requests) == 3 * VERDICTS
    graded(judge_at(server, repeats=1, temperature=0.5), tmp_path)  # another question
    assert len(server.requests) == 4 * VERDICTS


def test_the_budget_in_requests(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda number, _: fail(500) if number == 0 else rate(5))

    def judge() -> OpenAiJudge:
        return judge_at(server, requests=3, concurrency=1)

    with pytest.raises(
        CheckError, match="budget of 3 requests is used up; what was judged is kept"
    ):
        graded(judge(), tmp_path)
    assert len(server.requests) == 3 and len(list(tmp_path.rglob("*.json"))) == 2
    for _ in range(2):
        try:
            graded(judge(), tmp_path)
        except CheckError:
            continue
    assert len(server.requests) == VERDICTS + 1


def test_the_budget_is_of_all_that_a_judge_is_asked(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda *_: rate(5))
    judge = judge_at(server, requests=5, concurrency=1)
    graded(judge, tmp_path, questions=QUESTIONS[:2], answers=ANSWERS[:2])
    assert len(server.requests) == 3
    with pytest.raises(CheckError, match="budget of 5 requests is used up"):
        graded(judge, tmp_path)
    assert len(server.requests) == 5


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_budget_in_tokens(serve: Serve, tmp_path: Path, concurrency: int) -> None:
    """Of 110 a request; one may take up to 50 and its prompt, so four do not begin at once."""
    server = serve(lambda *_: rate(5))
    judge = judge_at(server, tokens=600, max_tokens=50, concurrency=concurrency)
    with pytest.raises(CheckError, match=r"budget of 600 tokens is used up: (\d+) are spent"):
        graded(judge, tmp_path)
    assert 2 <= len(server.requests) <= 5


def test_tokens_are_estimated_where_the_server_does_not_say(serve: Serve, tmp_path: Path) -> None:
    verdict = one(judge_at(serve(lambda *_: say("[[5]]" * 8, usage=None))), tmp_path)
    assert verdict.completion_tokens == 11 and verdict.prompt_tokens > 100


def test_the_forecast_comes_before_the_first_call(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ila")
    said: list[str] = []

    def script(number: int, request: Request) -> Act:
        if number == 0:
            said.append(caplog.text)
        return rate(5)

    server = serve(script)
    graded(judge_at(server, concurrency=1, requests=99), tmp_path)
    assert "judge gpt-4: 7 requests (0 verdicts are there), about" in said[0]
    assert f"at most {7 * 2048:,} of replies; left are 99 requests and any number" in said[0]


def test_the_key_is_nowhere(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(lambda number, _: fail(500, message=f"key {KEY}") if number < 2 else rate(5))
    judge = judge_at(server)
    result = graded(judge, tmp_path)
    out, err = capfd.readouterr()
    written = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    for text in (caplog.text, out, err, written, repr(judge), repr(vars(judge)["settings"])):
        assert KEY not in text
    assert KEY not in repr(judge.identity) + result.model_dump_json()


def test_another_model_under_the_same_name_is_noticed(serve: Serve, tmp_path: Path) -> None:
    judge = judge_at(serve(lambda *_: rate(5)))
    graded(judge, tmp_path, questions=QUESTIONS[:2], answers=ANSWERS[:2])
    newer = serve(lambda *_: say("[[5]]", model="gpt-4-1106"))
    with pytest.raises(CheckError, match=r"several judges \(gpt-4-0613, gpt-4-1106\)"):
        graded(judge_at(newer), tmp_path)


def test_the_answers_must_be_those_to_the_questions(serve: Serve, tmp_path: Path) -> None:
    judge = judge_at(serve(lambda *_: rate(5)))
    with pytest.raises(UserError, match=r"not those to the questions.*\(141\)"):
        graded(judge, tmp_path, answers=ANSWERS[:3])
    with pytest.raises(UserError, match="no question to judge"):
        graded(judge, tmp_path, questions=(), answers=())
    short = [a.model_copy(update={"turns": a.turns[:1]}) for a in ANSWERS]
    with pytest.raises(UserError, match="answers to 81, 111, 141 have other turns"):
        graded(judge, tmp_path, answers=short)


def test_two_judges_are_not_compared(serve: Serve, tmp_path: Path) -> None:
    def compared(a: Evaluation, b: Evaluation) -> object:
        return compare({"ila": {"vicuna": [a]}, "all": {"vicuna": [b]}}, against="all")

    server = serve(lambda *_: rate(5))
    one, same = (graded(judge_at(server), tmp_path) for _ in range(2))
    compared(one, same)
    other = graded(
        judge_at(serve(lambda *_: say("[[5]]", system_fingerprint="fp_2"))), tmp_path / "o"
    )
    with pytest.raises(UserError, match=r"cannot be compared: fingerprints is"):
        compared(one, other)
    both = [*one.comparable["fingerprints"], *other.comparable["fingerprints"]]
    turns = one.model_copy(update={"comparable": {**one.comparable, "fingerprints": both}})
    compared(one, turns)  # a server whose back ends take turns
    more = graded(judge_at(server, repeats=2), tmp_path)
    with pytest.raises(UserError, match=r"cannot be compared: judge is"):
        compared(one, more)


def test_a_reference_that_is_needed_is_missed(serve: Serve, tmp_path: Path) -> None:
    question = Question(id=1, category="math", turns=("1+1?",))
    judge = judge_at(serve(lambda *_: rate(5)))
    with pytest.raises(UserError, match=r"question 1 \(math\) has no reference answer"):
        graded(judge, tmp_path, questions=[question], answers=[Answer(question_id=1, turns=("2",))])
