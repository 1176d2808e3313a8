import json
import math

import pytest
import torch

from ila_core.config import Schedule
from ila_core.data.batches import plan_batches, planned_steps
from ila_core.errors import CheckError, UserError
from ila_core.train.loop import TrainRuntime, train
from tests.helpers import tiny


def run(model=None, rows=None, **changes):
    settings = {"schedule": tiny.SCHEDULE, "optimizer": tiny.OPTIMIZER, "seed": 0} | changes
    return train(model or tiny.model(), rows or tiny.rows(), **settings)


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 100])
def test_the_micro_batch_changes_no_loss(micro_batch):
    whole = run(runtime=TrainRuntime(micro_batch=8))
    other = run(runtime=TrainRuntime(micro_batch=micro_batch))
    assert other.losses == pytest.approx(whole.losses, abs=2e-5)


@pytest.mark.slow
def test_the_same_training_twice_is_bit_identical_and_learns():
    assert run().losses == run().losses
    assert run(seed=1).losses != run().losses
    assert run(schedule=Schedule(lr=1e-2, steps=30)).losses[-1] < run().losses[0] - 1


def test_stopping_early_changes_no_earlier_step():
    settings = {"schedule": Schedule(lr=1e-2, steps=12)}
    stop = tiny.STABILITY.model_copy(update={"epsilon": 1e-9, "ceiling": 0.5})
    full, stopped = run(**settings), run(**settings, stability=stop)
    assert (stopped.steps, stopped.planned_steps, stopped.stable) == (6, 12, False)
    assert stopped.losses == full.losses[:6]
    stop = tiny.STABILITY.model_copy(update={"epsilon": 100.0})
    stable = run(**settings, stability=stop)
    assert (stable.steps, stable.stable, stable.stable_at) == (6, True, 6)


@pytest.mark.parametrize(
    ("shape", "after"),
    [
        ("linear", [1, 2 / 3, 1 / 3]),
        ("constant", [1, 1, 1]),
        ("cosine", [1, 0.75, 0.25]),
    ],
)
def test_learning_rate_and_losses_are_reported(shape, after):
    seen = {}
    optimizer = tiny.OPTIMIZER.model_copy(update={"schedule": shape, "warmup_ratio": 0.5})
    result = run(optimizer=optimizer, runtime=TrainRuntime(on_metrics=seen.__setitem__))
    assert [seen[step]["loss"] for step in range(1, 7)] == result.losses
    expected = [peak * 1e-2 for peak in (0, 1 / 3, 2 / 3, *after)]
    assert [seen[step]["lr"] for step in range(1, 7)] == pytest.approx(expected)
    assert result.stable is None and result.seconds > 0
    json.loads(result.model_dump_json())


def test_nan_names_the_step():
    model = tiny.model()
    with torch.no_grad():
        model.lm_head.weight[3, 3] = math.nan
    with pytest.raises(CheckError, match="loss is nan at step 1 of 6"):
        run(model)


def test_a_first_loss_far_above_guessing_is_said(caplog):
    result = run()
    assert result.guessing == pytest.approx(math.log(tiny.VOCABULARY)) and not caplog.records
    wrong = tiny.model()
    with torch.no_grad():
        wrong.lm_head.weight.mul_(50)  # sure of tokens that do not come
    result = run(wrong)
    assert result.losses[0] > result.guessing + 1
    (said,) = caplog.messages
    assert f"first loss is {result.losses[0]:.2f} nats, and guessing any token costs 4.16" in said


def test_an_optimizer_can_be_given():
    model = tiny.model()
    before = model.lm_head.weight.detach().clone()
    run(model, make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    assert torch.equal(model.lm_head.weight, before)


def test_training_leaves_global_randomness_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model, rows = tiny.model(), tiny.rows()
    torch.manual_seed(5)
    run(model, rows)
    assert torch.equal(torch.rand(3), expected)


def test_bad_rows():
    with pytest.raises(UserError, match="4 rows are fewer than one batch of 8"):
        run(rows=tiny.rows(4))
    with pytest.raises(UserError, match=r"row 2 .* no token in the loss"):
        silent = tiny.Row([1, 2, 3], [1, -100, -100])
        run(rows=[*tiny.rows(2), silent, *tiny.rows(8)])


def test_plan():
    assert planned_steps(Schedule(lr=1.0, epochs=1.5), n_rows=10, batch_size=4) == 4
    batches = plan_batches(10, 4, 5, seed=0)
    stream = [i for batch in batches for i in batch]
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]
    assert plan_batches(10, 4, 2, seed=0) == batches[:2]  # a shorter plan is a prefix
