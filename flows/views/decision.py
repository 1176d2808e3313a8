"""The output of `ila compare` and `ila decide`, and the exit code of an answer."""

import typer

from flows.views.printing import print_frame, print_json
from ila_core.compare.arms import Comparison
from ila_core.compare.decide import Answer, Decision
from ila_core.compare.tables import (
    comparison_notes,
    comparison_table,
    decision_notes,
    decision_table,
)

EXIT_CODES: dict[Answer, int] = {"ship": 0, "no": 3, "undecided": 4}


def show_comparison(comparison: Comparison, *, as_json: bool) -> None:
    if as_json:
        return print_json(comparison.model_dump(mode="json") | {"each": comparison.each})
    print_frame(comparison_table(comparison))
    for note in comparison_notes(comparison):
        typer.echo(note)


def show_decision(decision: Decision, *, as_json: bool) -> None:
    """Print the answer, then its reasons; the caller exits with `EXIT_CODES[decision.answer]`."""
    if as_json:
        return print_json(decision.model_dump(mode="json"))
    typer.echo(
        f"{decision.answer}: {decision.candidate} in place of {decision.baseline} by the rule "
        f"{decision.rule.name}: {decision.reason}"
    )
    print_frame(decision_table(decision))
    for note in decision_notes(decision):
        typer.echo(note)
