import math
import random

import numpy as np
import pytest
import tiny
import torch

from ila_core.benchmarks import BENCHMARKS
from ila_core.benchmarks.held_out_loss import ConversationLoss, Evaluation, paired_bootstrap
from ila_core.errors import CheckError, UserError

pytestmark = tiny.STRICT
HELD_OUT = BENCHMARKS["held_out_loss"]


def evaluation(nll, tokens):
    conversations = [ConversationLoss(nll=n, tokens=t) for n, t in zip(nll, tokens, strict=True)]
    total = sum(tokens)
    return Evaluation(
        benchmark="b", loss=sum(nll) / total, tokens=total, conversations=conversations
    )


def test_equals_the_models_own_loss_row_by_row_and_keeps_the_mode():
    model, rows = tiny.model(attention_dropout=0.5), tiny.rows(11)
    model.train()
    model.lm_head.eval()
    result = HELD_OUT.run(model, rows, eval_batch=4)
    assert model.training and not model.lm_head.training
    model.eval()
    for row, found in zip(rows, result.conversations, strict=True):
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        own = model(input_ids=ids, labels=labels).loss.item()
        assert found.nll / found.tokens == pytest.approx(own, abs=1e-5)
    assert result.tokens == sum(c.tokens for c in result.conversations)
    assert result.loss == pytest.approx(sum(c.nll for c in result.conversations) / result.tokens)
    assert HELD_OUT.run(model, rows, eval_batch=1).loss == pytest.approx(result.loss, abs=1e-6)
    assert HELD_OUT.chance(64) == pytest.approx(math.log(64))


def test_bad_rows_and_models():
    with pytest.raises(UserError, match="no held-out rows"):
        HELD_OUT.run(tiny.model(), [], eval_batch=2)
    broken = tiny.model()
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    with pytest.raises(CheckError, match="held-out row 0 is nan"):
        HELD_OUT.run(broken, tiny.rows(2), eval_batch=2)


def test_bootstrap_is_paired_and_weighted_by_tokens():
    rng = random.Random(0)
    tokens = [rng.randint(5, 50) for _ in range(200)]
    base = [t * rng.uniform(1, 5) for t in tokens]
    settings = {"resamples": 2000, "confidence": 0.95, "seed": 0}
    a = [evaluation([n + 0.1 * t for n, t in zip(base, tokens, strict=True)], tokens)]
    b = [evaluation(base, tokens)]
    exact = paired_bootstrap(a, b, **settings)
    assert [exact.difference, exact.low, exact.high] == pytest.approx([0.1] * 3)
    noisy = [[n + t * rng.gauss(0.1, 0.5) for n, t in zip(base, tokens, strict=True)] for _ in "ab"]
    interval = paired_bootstrap([evaluation(n, tokens) for n in noisy], b, **settings)
    mean = np.mean(noisy, axis=0) - base
    assert interval.difference == pytest.approx(mean.sum() / sum(tokens))
    assert interval.low < interval.difference < interval.high
    # Two averaged seeds of deviation 0.5 a conversation: standard error about 0.5 / sqrt(2 * 200).
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.3)
    assert interval == paired_bootstrap([evaluation(n, tokens) for n in noisy], b, **settings)


def test_bootstrap_refuses_other_rows():
    with pytest.raises(CheckError, match="same rows"):
        arms = [evaluation([1.0, 2.0], [1, 2])], [evaluation([1.0, 2.0], [2, 1])]
        paired_bootstrap(*arms, resamples=100, confidence=0.9, seed=0)
