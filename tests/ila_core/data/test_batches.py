from itertools import pairwise

import pytest
import torch

from ila_core.data.batches import MicroBatches, collate, pack, plan_batches
from ila_core.train.loss import TokenLoss
from tests.helpers import tiny


def length(parts):
    return sum(len(row.input_ids) for row in parts)


def learned(rows):
    return sum(label != -100 for row in rows for label in row.labels[1:])


def step(model, batches, divisor):
    model.zero_grad()
    token_loss = TokenLoss(model)
    loss = sum(token_loss.backward(batch, divisor).item() for batch in batches)
    return loss, torch.cat([p.grad.flatten() for p in model.parameters()])


def test_pack_is_best_fit_decreasing():
    rows = [tiny.Row([0] * n, [0] * n) for n in (3, 10, 6, 2, 7, 4, 8)]
    packed = [[len(row.input_ids) for row in parts] for parts in pack(rows)]
    assert packed == [[10], [8, 2], [7, 3], [6, 4]]


def test_packed_equals_unpacked_in_loss_and_every_gradient():
    model, rows = tiny.model(), tiny.rows(24)
    micro = MicroBatches(rows, [list(range(24))], 4)[0]
    assert any("position_ids" in batch for batch in micro["micro_batches"])
    assert micro["step_tokens"] == learned(rows)
    alone = [collate([[row]]) for row in rows]
    loss, gradient = step(model, alone, learned(rows))
    ours, packed = step(model, micro["micro_batches"], micro["step_tokens"])
    assert ours == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(packed, gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_conversation_does_not_see_its_neighbour(attention):
    model, (first, other, second, third) = tiny.model(attn_implementation=attention), tiny.rows(4)
    token_loss = TokenLoss(model)
    other = tiny.Row(
        (other.input_ids * 9)[: length([first])], (other.labels * 9)[: length([first])]
    )
    losses = []
    for before in (first, other):
        # The last row leaves padding, which nobody may see either.
        nll, row = token_loss(collate([[before, second], [third]]))
        assert len(nll) == learned([before, second, third])
        losses.append((nll[row == 0][-learned([second]) :], nll[row == 1]))
    for one, changed in zip(*losses, strict=True):
        torch.testing.assert_close(one, changed, atol=1e-6, rtol=0)
    for found, row in zip(losses[0], (second, third), strict=True):
        torch.testing.assert_close(found, token_loss(collate([[row]]))[0], atol=1e-6, rtol=0)


def test_the_first_token_is_not_predicted_from_the_neighbour():
    a, b = tiny.Row([1, 2, 3], [1, 2, 3]), tiny.Row([4, 5], [4, 5])
    batch = collate([[a, b], [a]])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100, 5], [-100, 2, 3, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]]


def test_one_conversation_per_row_needs_neither_mask_nor_positions():
    row, longer = sorted(tiny.rows(2), key=lambda row: len(row.input_ids))
    for rows in ([row, row], [row, longer]):
        assert sorted(collate([[r] for r in rows])) == ["input_ids", "labels"]


def test_micro_batches_hold_their_step_and_put_single_conversations_first():
    rows = tiny.rows(20)
    batches = plan_batches(20, 7, 2, seed=0)
    micro = MicroBatches(rows, batches, 2)
    assert len(micro) == 2
    for number, chosen in enumerate(batches):
        held = micro[number]
        here = [rows[i] for i in chosen]
        parts = held["micro_batches"]
        bearing = sum(int((p["labels"][:, 1:] != -100).sum()) for p in parts)
        assert held["step_tokens"] == bearing == learned(here)
        longest = max(len(row.input_ids) for row in here)
        assert all(p["input_ids"].shape[0] <= 2 for p in parts)
        assert all(p["input_ids"].shape[1] <= longest for p in parts)
        assert all("position_ids" in b for a, b in pairwise(parts) if "position_ids" in a)


def test_the_largest_step_is_the_one_whose_micro_batch_holds_most_tokens():
    lengths = [9, 9, 4, 5, 4, 5, 4, 5, 8, 8, 8, 8]
    rows = [tiny.Row([1] * n, [1] * n) for n in lengths]
    # Step 0: two rows of 9; 1: two of 9, packed; 2: two of 5, less; 3: two of 8.
    batches = [[0, 1], [0, 2, 3, 4, 5], [6, 7], [8, 9, 10, 11]]
    micro = MicroBatches(rows, batches, 2)
    tokens = [max(p["input_ids"].numel() for p in micro[i]["micro_batches"]) for i in range(4)]
    assert tokens == [18, 18, 10, 16]
    assert [micro.largest(start) for start in range(4)] == [1, 1, 3, 3]
