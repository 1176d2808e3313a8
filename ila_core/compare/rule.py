"""The rule for a decision: the requirements that a candidate must meet, as YAML.

    confidence: 0.95
    seeds: 2
    require:
      - {benchmark: mmlu, at_least: -0.01}          # not worse by more than one point
      - {benchmark: held_out_loss, at_least: 0.0}   # better

`at_least` is an improvement in the benchmark's unit; + is better for accuracies and losses alike. A
negative value is a margin of non-inferiority, which a candidate that is exactly as good can meet.
Zero or more demands superiority by that much: a candidate that is exactly as good stays undecided,
however many items are measured.
"""

from collections.abc import Iterable
from typing import Self

from pydantic import Field, model_validator

from ila_core.config import Frozen
from ila_core.config.base import Name, refuse_repeats
from ila_core.config.load import load_named
from ila_core.errors import UserError, unknown_name


class Requirement(Frozen):
    benchmark: str
    at_least: float


class Rule(Frozen):
    name: str = Name
    description: str = ""
    confidence: float = Field(gt=0.5, lt=1)
    """Joint confidence of all intervals, and so the confidence of "ship" and of "no"."""
    require: tuple[Requirement, ...] = Field(min_length=1)
    seeds: int = Field(default=1, ge=1)
    """Least fine-tuning seeds of the candidate. With one, the answer is about this trained model
    and not about its recipe. The baseline may have one seed: the model that is in use."""
    resamples: int = Field(default=10_000, ge=1_000)
    seed: int = Field(default=0, ge=0)
    """Seed of the bootstrap."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_repeats("require", [x.benchmark for x in self.require])
        return self


def load_rule(given: str, benchmarks: Iterable[str]) -> Rule:
    """Load the rule named `given` (`profiles/rules/`), or from the file `given`.

    Args:
        benchmarks: the names that a requirement may have.

    Raises:
        UserError: when there is no such file, or it has an unknown field or benchmark.
    """
    rule, path = load_named(Rule, "rule", given)
    known = sorted(benchmarks)
    for number, requirement in enumerate(rule.require):
        if requirement.benchmark not in known:
            error = unknown_name("benchmark", requirement.benchmark, known)
            raise UserError(f"{path}: require.{number}.benchmark: {error}")
    return rule
