"""Which layers are sure to lie on their side of the cut."""

from __future__ import annotations

from statistics import stdev

import pytest

from ila_core.search.certainty import certainty
from tests.ila_core.search.test_agreement import NAMES, ranking_of

BEST_FIRST = [float(-i) for i in range(len(NAMES))]


def test_a_layer_is_unsure_where_seeds_put_it_on_both_sides() -> None:
    swapped = BEST_FIRST.copy()
    swapped[8], swapped[9] = swapped[9], swapped[8]
    raised = [score + 100 for score in BEST_FIRST]  # a constant moves no layer over the cut
    found = certainty(ranking_of(a=[BEST_FIRST, swapped, raised]), "a", keep=0.75)  # 9 of 12
    assert [x.name for x in found] == NAMES
    assert [x.name for x in found if x.unsure] == [NAMES[8], NAMES[9]]
    assert [x.kept_by for x in found] == [3] * 8 + [2, 1] + [0] * 2
    assert found[8].mean == pytest.approx((-8 - 9 + 92) / 3)
    assert found[8].spread == pytest.approx(stdev([-8, -9, 92]))


def test_far_from_the_cut_a_layer_is_sure_however_it_varies() -> None:
    swapped = BEST_FIRST.copy()
    swapped[0], swapped[5] = swapped[5], swapped[0]
    found = certainty(ranking_of(a=[BEST_FIRST, swapped]), "a", keep=0.75)
    assert found[0].spread is not None and found[0].spread > 3
    assert not any(x.unsure for x in found)


def test_with_one_seed_nothing_is_known() -> None:
    found = certainty(ranking_of(a=[BEST_FIRST], b=[BEST_FIRST, BEST_FIRST]), "a", keep=0.75)
    assert {(x.unsure, x.spread) for x in found} == {(None, None)}
    assert [x.kept_by for x in found] == [1] * 9 + [0] * 3


@pytest.mark.parametrize("keep", [1.0, 0.01])
def test_a_cut_that_everything_is_on_one_side_of(keep: float) -> None:
    found = certainty(ranking_of(a=[BEST_FIRST, BEST_FIRST[::-1]]), "a", keep=keep)
    assert not any(x.unsure for x in found)
