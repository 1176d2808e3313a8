import pytest

from ila_core.config import StabilitySettings
from ila_core.train.stability import ceiling_steps, is_stable

SETTINGS = StabilitySettings(epsilon=0.1, window=2, patience=2, floor=0.25, ceiling=0.5)


def first_stable(losses, planned, settings=SETTINGS):
    steps = range(1, len(losses) + 1)
    return next((n for n in steps if is_stable(losses[:n], settings, planned)), None)


@pytest.mark.parametrize(
    ("losses", "planned", "expected"),
    [
        ([3, 2, 1, 1, 1, 1, 1, 1, 1, 1], 10, 8),  # means 2.5, 1, 1, 1: two quiet changes at 8
        ([3, 3, 3, 3, 3, 3], 6, 6),  # three windows are the least that patience 2 allows
        ([3, 3, 3, 3, 3, 3, 3, 3], 32, 8),  # the floor holds it back from 6 to 8
        ([1, 3, 1, 3, 3, 1, 1, 3], 8, 6),  # the windows' means decide, not the steps
        ([3, 3, 3, 3, 3, 3, 3], 14, 6),
        ([9, 3, 3, 3, 3, 3, 3], 14, 7),  # the ceiling ends no window: the last windows decide
        ([9, 8, 7, 6, 5, 4, 3, 2], 8, None),
        ([1, 1, 1, 1, 1.125, 1.125, 1.125, 1.125], 8, None),  # one quiet change is no patience
    ],
)
def test_first_stable_step(losses, planned, expected):
    assert first_stable(losses, planned) == expected


def test_ceiling():
    assert [ceiling_steps(SETTINGS, n) for n in (1, 3, 100)] == [1, 2, 50]
    whole = SETTINGS.model_copy(update={"ceiling": 1.0})
    assert ceiling_steps(whole, 7) == 7
