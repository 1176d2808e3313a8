"""Two models' answers side by side, in both orders: a win counts only if both orders agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from ila_core.chat.answering import Answer
from ila_core.chat.questions import Question
from ila_core.evaluation.result import Evaluation, Item
from ila_core.judging.asking import Ask, Judge
from ila_core.judging.grading import (
    WHY_NOT,
    check_answers,
    comparable,
    judged_by,
    reason,
    require_some,
)
from ila_core.judging.store import VerdictStore
from ila_core.judging.verdict import Verdict


def compare(
    questions: Sequence[Question],
    first: Sequence[Answer],
    second: Sequence[Answer],
    judge: Judge,
    store: VerdictStore,
    *,
    benchmark: str,
    generation: Mapping[str, Any],
) -> Evaluation:
    """One item per question: the first model's share of the wins, ties counting half.

    A turn is won if the judge prefers an answer in both places. Else, as in FastChat, it is a tie:
    the judge said so, or preferred a place.

    Raises:
        UserError, CheckError: as `ila_core.judging.grading.grade`.
    """
    check_answers(questions, first)
    check_answers(questions, second)
    prompts = judge.prompts
    asks = [
        Ask(reading="preference", messages=messages, repeat=repeat)
        for question, a, b in zip(questions, first, second, strict=True)
        for turn in range(1, len(question.turns) + 1)
        for repeat in range(judge.repeats)
        for messages in (
            prompts.pair_messages(question, a, b, turn),
            prompts.pair_messages(question, b, a, turn),
        )
    ]
    verdicts = judge.verdicts(asks, store)
    model, fingerprints = judged_by(verdicts)
    items, counts = [], Counter({"judged": 0, "orders_disagree": 0} | dict.fromkeys(WHY_NOT, 0))
    rest = iter(verdicts)
    for question in questions:
        turns = [[(next(rest), next(rest)) for _ in range(judge.repeats)] for _ in question.turns]
        whole = [
            repeat
            for repeat in zip(*turns, strict=True)
            if all(verdict.why_not is None for pair in repeat for verdict in pair)
        ]
        counts["failed_repeats"] += judge.repeats - len(whole) if whole else 0
        if not whole:
            counts[reason(v for turn in turns for pair in turn for v in pair)] += 1
            continue
        counts["judged"] += 1
        counts["orders_disagree"] += sum(
            _place_decided(pair) for repeat in whole for pair in repeat
        )
        shares = [[_share(pair) for pair in repeat] for repeat in whole]
        items.append(
            Item(
                id=str(question.id),
                group=question.category,
                value=fmean(median(turn) for turn in zip(*shares, strict=True)),
                repeats=tuple(fmean(repeat) for repeat in shares),
            )
        )
    require_some(items, counts)
    return Evaluation(
        benchmark=benchmark,
        unit="share of wins",
        better="higher",
        chance=0.5,
        items=tuple(items),
        comparable=comparable(questions, judge, model, fingerprints, generation),
        counts=dict(counts),
    )


def _sides(pair: tuple[Verdict, Verdict]) -> tuple[float, float]:
    """What the first model got in the first place, and in the second."""
    there, back = pair[0].grade, pair[1].grade
    assert there is not None and back is not None
    return there, 1 - back


def _share(pair: tuple[Verdict, Verdict]) -> float:
    there, back = _sides(pair)
    return there if there == back else 0.5


def _place_decided(pair: tuple[Verdict, Verdict]) -> bool:
    return set(_sides(pair)) == {0.0, 1.0}
