"""Which layers are sure to lie on their side of the cut."""

from __future__ import annotations

import pytest

from ila_core.search.certainty import unsure_layers
from tests.ila_core.search.test_agreement import NAMES, ranking_of

BEST_FIRST = [float(-i) for i in range(len(NAMES))]


def test_a_layer_is_unsure_where_seeds_put_it_on_both_sides() -> None:
    swapped = BEST_FIRST.copy()
    swapped[8], swapped[9] = swapped[9], swapped[8]
    raised = [score + 100 for score in BEST_FIRST]  # a constant moves no layer over the cut
    ranking = ranking_of(a=[BEST_FIRST, swapped, raised])
    assert unsure_layers(ranking, "a", keep=0.75) == (NAMES[8], NAMES[9])  # 9 of 12


def test_far_from_the_cut_a_layer_is_sure_however_it_varies() -> None:
    swapped = BEST_FIRST.copy()
    swapped[0], swapped[5] = swapped[5], swapped[0]
    assert unsure_layers(ranking_of(a=[BEST_FIRST, swapped]), "a", keep=0.75) == ()


def test_with_one_seed_nothing_is_known() -> None:
    ranking = ranking_of(a=[BEST_FIRST], b=[BEST_FIRST, BEST_FIRST])
    assert unsure_layers(ranking, "a", keep=0.75) is None
    assert unsure_layers(ranking, "b", keep=0.75) == ()


@pytest.mark.parametrize("keep", [1.0, 0.01])
def test_a_cut_that_everything_is_on_one_side_of(keep: float) -> None:
    ranking = ranking_of(a=[BEST_FIRST, BEST_FIRST[::-1]])
    assert unsure_layers(ranking, "a", keep=keep) == ()
