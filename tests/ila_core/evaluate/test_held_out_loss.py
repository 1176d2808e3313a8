import math

import pytest
import torch

from ila_core.errors import CheckError, UserError
from ila_core.train.held_out_loss import held_out_loss
from tests.helpers import tiny


def test_equals_the_models_own_loss_row_by_row_and_keeps_the_mode():
    model, rows = tiny.model(attention_dropout=0.5), tiny.rows(11)
    model.train()
    model.lm_head.eval()
    result = held_out_loss(model, rows, eval_batch=4)
    assert model.training and not model.lm_head.training
    model.eval()
    for row, found in zip(rows, result.conversations, strict=True):
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        own = model(input_ids=ids, labels=labels).loss.item()
        assert found.nll / found.tokens == pytest.approx(own, abs=1e-5)
    assert result.tokens == sum(c.tokens for c in result.conversations)
    assert result.loss == pytest.approx(sum(c.nll for c in result.conversations) / result.tokens)
    assert held_out_loss(model, rows, eval_batch=1).loss == pytest.approx(result.loss, abs=1e-6)


def test_bad_rows_and_models():
    with pytest.raises(UserError, match="no held-out rows"):
        held_out_loss(tiny.model(), [], eval_batch=2)
    broken = tiny.model()
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    with pytest.raises(CheckError, match="held-out row 0 is nan"):
        held_out_loss(broken, tiny.rows(2), eval_batch=2)
