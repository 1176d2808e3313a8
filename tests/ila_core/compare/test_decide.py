"""Rules answered: every answer reached, its reason, and whether what is needed would do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from flows.views.decision import EXIT_CODES, show_comparison, show_decision
from ila_core.compare.arms import compare
from ila_core.compare.decide import Decision, decide
from ila_core.compare.rule import Requirement, Rule, load_rule
from ila_core.compare.tables import decision_notes
from ila_core.config.load import shipped
from ila_core.errors import UserError
from ila_core.evaluate.benchmarks import BENCHMARKS
from tests.helpers.evaluated import accuracy, losses

KNOWN = tuple(BENCHMARKS)
RNG = np.random.default_rng(0)
HARD = 10 * RNG.normal(2, 1, size=200)


def rule(**at_least: float) -> Rule:
    asked = tuple(Requirement(benchmark=k, at_least=v) for k, v in at_least.items())
    return Rule(name="test", confidence=0.95, require=asked, resamples=1000)


def loss(gain: float, noise: float = 0.02, n: int = 200, seed: int = 1):
    """Losses `gain` nats per token below those that all have in common."""
    rng = np.random.default_rng(seed)
    return losses(np.resize(HARD, n) - 10 * (gain + noise * rng.normal(size=n)))


def answered(gain: float, at_least: float, *, n: int = 200, seed: int = 1) -> Decision:
    new, old = loss(gain, n=n, seed=seed), loss(0, 0, n=n)
    sides = {"held_out_loss": [new]}, {"held_out_loss": [old]}
    return decide(("new", sides[0]), ("old", sides[1]), rule(held_out_loss=at_least))


@pytest.mark.parametrize(
    ("gain", "at_least", "answer"),
    [
        (0.02, 0.0, "ship"),  # better
        (-0.005, -0.01, "ship"),  # worse, by less than the margin
        (-0.02, -0.01, "no"),
        (-0.0105, -0.01, "undecided"),
        (0.001, 0.0, "undecided"),  # as good, where better is asked for
        (0.02, 0.04, "no"),  # better, by less than is asked for
    ],
)
def test_every_answer(gain: float, at_least: float, answer: str) -> None:
    """The standard error is 0.02 / sqrt(200) = 0.0014."""
    found = answered(gain, at_least)
    assert found.answer == answer
    outcome = found.outcomes[0]
    assert outcome.low <= outcome.improvement <= outcome.high
    assert outcome.improvement == pytest.approx(gain, abs=0.004)  # a lower loss is an improvement
    assert (outcome.needed is not None) == (answer == "undecided")


def test_one_failure_is_a_no_and_one_doubt_is_undecided() -> None:
    right = np.arange(400) % 2 == 0
    old = {"held_out_loss": [loss(0, 0)], "mmlu": [accuracy(right)]}
    better, worse = {"held_out_loss": [loss(0.02)]}, {"held_out_loss": [loss(-0.1)]}
    as_good, broken = {"mmlu": [accuracy(right)]}, {"mmlu": [accuracy(right * 0)]}
    asked = rule(held_out_loss=0.0, mmlu=-0.005)
    for new, answer, reason in [
        (better | broken, "no", "mmlu fails"),
        (better | as_good, "undecided", "mmlu may hold or fail"),
        (worse | as_good, "no", "held_out_loss fails"),
        (worse | broken, "no", "held_out_loss, mmlu fails"),
    ]:
        found = decide(("new", new), ("old", old), asked)
        assert (found.answer, found.reason) == (answer, reason)
    found = decide(("new", better | as_good), ("old", old), rule(held_out_loss=0.0, mmlu=-0.05))
    assert (found.answer, found.reason) == ("ship", "all 2 requirements hold")


def test_on_the_margin_few_are_decided() -> None:
    """Both ways of being wrong together: the 5 % that the confidence leaves."""
    old = {"held_out_loss": [loss(0, 0)]}
    decided = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        new = losses(HARD + 10 * (0.01 + 0.02 * rng.normal(size=200)))
        found = decide(("new", {"held_out_loss": [new]}), ("old", old), rule(held_out_loss=-0.01))
        decided += found.answer != "undecided"
    assert 2 <= decided <= 20


def test_the_items_needed_decide_four_of_five_times() -> None:
    first = answered(0.001, -0.001, seed=2)
    assert first.answer == "undecided"
    seen, need = first.outcomes[0].improvement, first.outcomes[0].needed
    assert need is not None and need.bottleneck == "items"
    assert f"about {need.items:,} items ({need.items - 200:,} more)" in first.outcomes[0].reason
    again = [answered(seen, -0.001, n=need.items, seed=s).answer for s in range(100, 160)]
    assert 0.65 <= np.mean([x != "undecided" for x in again]) <= 0.95


def test_the_items_needed_are_those_of_the_formula() -> None:
    found = answered(0.001, -0.001, seed=5).outcomes[0]
    assert found.needed is not None
    error = (loss_gap := np.array(_gaps(5))).std(ddof=1) / np.sqrt(200)
    gap = found.improvement + 0.001
    assert found.improvement == pytest.approx(loss_gap.mean())
    expected = 200 * ((1.959964 + 0.841621) * error / gap) ** 2
    assert found.needed.items == pytest.approx(expected, abs=1.5)


def _gaps(seed: int) -> list[float]:
    new, old = loss(0.001, seed=seed), loss(0, 0)
    return [(b.value - a.value) / 10 for a, b in zip(new.items, old.items, strict=True)]


def test_where_seeds_vary_more_seeds_are_needed() -> None:
    new = {"held_out_loss": [loss(g, noise=0.001, seed=i) for i, g in enumerate((0.01, 0.03))]}
    old = {"held_out_loss": [loss(g, noise=0.001, seed=i) for i, g in enumerate((0.0, 0.01), 7)]}
    found = decide(("new", new), ("old", old), rule(held_out_loss=0.0)).outcomes[0]
    assert (found.verdict, found.over, found.seeds) == ("undecided", "seeds", 2)
    assert found.needed is not None
    assert (found.needed.bottleneck, found.needed.items) == ("seeds", 200)
    assert 4 <= found.needed.seeds <= 20
    more = f"{found.needed.seeds} fine-tuning seeds ({found.needed.seeds - 2} more)"
    assert more in found.reason
    rng, decided = np.random.default_rng(0), []
    for _ in range(40):
        drawn = [
            {
                "held_out_loss": [
                    loss(g, noise=0.001, seed=int(rng.integers(1e6)))
                    for g in rng.normal(mean, deviation, size=found.needed.seeds)
                ]
            }
            for mean, deviation in ((0.02, 0.02 / 2**0.5), (0.005, 0.01 / 2**0.5))
        ]
        answer = decide(("new", drawn[0]), ("old", drawn[1]), rule(held_out_loss=0.0)).answer
        decided.append(answer != "undecided")
    assert 0.6 <= np.mean(decided) <= 1


def test_where_neither_alone_will_do_both_are_needed() -> None:
    new = {"held_out_loss": [loss(g, noise=0.3, seed=i) for i, g in enumerate((0.0, 0.03))]}
    old = {"held_out_loss": [loss(g, noise=0.3, seed=i) for i, g in enumerate((0.0, 0.03), 7)]}
    found = decide(("new", new), ("old", old), rule(held_out_loss=-0.01)).outcomes[0]
    assert found.needed is not None and found.needed.bottleneck == "both"
    assert found.needed.items > 200 and found.needed.seeds > 2
    assert " items (" in found.reason and " fine-tuning seeds (" in found.reason


def test_a_difference_on_the_margin_asks_for_nothing() -> None:
    same = {"mmlu": [accuracy(np.arange(100) % 2)]}
    found = decide(("new", same), ("old", same), rule(mmlu=0.0)).outcomes[0]
    assert (found.verdict, found.needed) == ("undecided", None)
    assert "no number of items worth naming" in found.reason


def test_two_at_chance_show_nothing_to_be_better() -> None:
    rng = np.random.default_rng(3)
    old = rng.random(2000) < 0.24
    new = old | (rng.random(2000) < 0.02)  # told apart as pairs, neither from guessing
    sides = ("new", {"mmlu": [accuracy(new)]}), ("old", {"mmlu": [accuracy(old)]})
    better = decide(*sides, rule(mmlu=0.0))
    assert better.outcomes[0].low > 0 and better.outcomes[0].uninformative
    assert (better.answer, better.outcomes[0].needed) == ("undecided", None)
    assert "both stand at chance" in better.outcomes[0].reason
    no_worse = decide(*sides, rule(mmlu=-0.05))
    assert (no_worse.answer, no_worse.outcomes[0].uninformative) == ("ship", True)
    assert any("At chance" in note for note in decision_notes(no_worse))


def test_too_few_items_or_seeds_decide_nothing() -> None:
    few = answered(0.5, 0.0, n=20)
    assert few.answer == "undecided" and "30 are the least" in few.outcomes[0].reason
    new, old = {"held_out_loss": [loss(0.5)]}, {"held_out_loss": [loss(0, 0)]}
    asked = rule(held_out_loss=0.0).model_copy(update={"seeds": 2})
    found = decide(("new", new), ("old", old), asked)
    assert found.answer == "undecided"
    assert "asks for 2 seeds of the candidate" in found.outcomes[0].reason
    assert found.outcomes[0].needed is not None and found.outcomes[0].needed.seeds == 2


def test_what_was_not_evaluated_is_named_with_its_command() -> None:
    sides = ("new", {"mmlu": [accuracy([1, 0])]}), ("old", {})
    with pytest.raises(UserError, match=r"'old' was not.*`ila evaluate old --benchmarks mmlu`"):
        decide(*sides, rule(mmlu=0.0))
    with pytest.raises(UserError, match="both 'new'"):
        decide(sides[0], sides[0], rule(mmlu=0.0))


@pytest.mark.parametrize("name", shipped("rules"))
def test_every_shipped_rule_loads(name: str) -> None:
    loaded = load_rule(name, KNOWN)
    assert loaded.name == name and loaded.description


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("confidense: 0.9", "unknown field 'confidense': did you mean 'confidence'"),
        ("confidence: 2", "confidence: .*less than 1.*given 2"),
        ("require: []", "require: .*at least 1"),
        ("require: [{benchmark: mmlu}]", "require.0.at_least: required, and not given"),
        (
            "require: [{benchmark: mmlu, at_most: 1}]",
            "unknown field 'require.0.at_most'.*'require.0.at_least'",
        ),
        ("require: [{benchmark: mnlu, at_least: 0}]", "unknown benchmark 'mnlu'.*'mmlu'"),
        (
            "require: [{benchmark: mmlu, at_least: 0}, {benchmark: mmlu, at_least: 1}]",
            "mmlu given more than once",
        ),
    ],
)
def test_what_is_wrong_in_a_rule_is_named_with_its_file(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text if text.startswith("confid") else f"confidence: 0.95\n{text}")
    with pytest.raises(UserError, match=message) as caught:
        load_rule(str(path), KNOWN)
    assert str(path) in str(caught.value)


def test_an_unknown_rule_suggests() -> None:
    with pytest.raises(UserError, match="unknown rule 'defalt': did you mean 'default'"):
        load_rule("defalt", KNOWN)


def test_what_is_printed(capsys) -> None:
    found = answered(0.001, -0.001, seed=5)
    show_decision(found, as_json=False)
    said = capsys.readouterr().out
    assert said.startswith("undecided: new in place of old by the rule test: held_out_loss may")
    assert "95.00% intervals" in said and "another fine-tuning seed may differ" in said
    assert "would decide 80% of such cases" in said
    show_decision(found, as_json=True)
    assert Decision.model_validate_json(capsys.readouterr().out) == found
    assert EXIT_CODES == {"ship": 0, "no": 3, "undecided": 4}
    arms = {"new": {"mmlu": [accuracy([1, 0])]}, "old": {"mmlu": [accuracy([1, 1])]}}
    comparison = compare(arms, against="old")
    show_comparison(comparison, as_json=False)
    assert "-0.5000" in capsys.readouterr().out
    show_comparison(comparison, as_json=True)
    assert json.loads(capsys.readouterr().out)["compared"][0]["difference"] == -0.5
