"""A judge compares two models' answers in both orders: a win counts only if both agree."""

from collections.abc import Mapping, Sequence

from ila_core.compare.results import Evaluation
from ila_core.inference.generate import Answer
from ila_core.inference.questions import Question
from ila_core.judge.ask import Judge, VerdictStore
from ila_core.judge.items import Showing, Sight, asks_of, check_answers, judged
from ila_core.judge.prompts import JudgePrompts, Messages

UNIT = "share of wins"


def compare(
    questions: Sequence[Question],
    first: Sequence[Answer],
    second: Sequence[Answer],
    judge: Judge,
    store: VerdictStore,
    *,
    benchmark: str,
    generation: Mapping[str, object] | None,
) -> Evaluation:
    """Compare answers: an item is the first model's share of a question, ties counting half.

    A turn is won if the judge prefers an answer in both places. Else, as in FastChat, it is a tie:
    the judge said so, or preferred a place. A question is won if more of it is won than lost.

    Raises:
        UserError, CheckError: as `ila_core.judge.grade.grade`.
    """
    check_answers(questions, first)
    check_answers(questions, second)
    showing = side_by_side(questions, first, second, judge.prompts)
    verdicts = judge.verdicts(asks_of(questions, showing, judge), store)
    found = judged(questions, showing, judge, verdicts, generation)
    shares = [item.value for item in found.items]
    return Evaluation(
        benchmark=benchmark,
        unit=UNIT,
        better="higher",
        chance=0.5,
        items=found.items,
        comparable=found.comparable,
        counts={
            "wins": sum(share > 0.5 for share in shares),
            "ties": sum(share == 0.5 for share in shares),
            "losses": sum(share < 0.5 for share in shares),
            **found.counts,
            "orders_disagree": sum(map(_place_decided, found.sights)),
        },
    )


def side_by_side(
    questions: Sequence[Question],
    first: Sequence[Answer],
    second: Sequence[Answer],
    prompts: JudgePrompts,
) -> Showing:
    """Show both answers, first one way round and then the other."""

    def both(place: int, turn: int) -> tuple[Messages, ...]:
        question, a, b = questions[place], first[place], second[place]
        return prompts.pair_messages(question, a, b, turn), prompts.pair_messages(
            question, b, a, turn
        )

    return Showing("preference", both, _share)


def _sides(sight: Sight) -> tuple[float, float]:
    """Return what the first model got in the first place, and in the second."""
    there, back = sight[0].grade, sight[1].grade
    assert there is not None and back is not None
    return there, 1 - back


def _share(sight: Sight) -> float:
    there, back = _sides(sight)
    return there if there == back else 0.5


def _place_decided(sight: Sight) -> bool:
    return set(_sides(sight)) == {0.0, 1.0}
