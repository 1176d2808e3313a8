"""Log-likelihoods of continuations equal the model's own, however much is shared."""

import random

import pytest
import torch

from ila_core.errors import CheckError
from ila_core.inference.likelihood import _shared, log_likelihoods
from ila_core.inference.likelihood_cache import Continuation
from tests.helpers import tiny

CONTEXT = 96


def tokens(rng, count):
    return [rng.randrange(tiny.VOCABULARY) for _ in range(count)]


def asked(rng):
    """A family with a long prefix, one prompt of it cut, and another family with nothing shared."""
    prefix = tokens(rng, 60)
    found = []
    for _ in range(9):
        question = prefix + tokens(rng, rng.randint(1, 20))
        found += [Continuation.of(question, [t], CONTEXT, "subject") for t in range(4)]
        found.append(Continuation.of(question, [1, 2, 3], CONTEXT, "subject"))
    found.append(Continuation.of(prefix + tokens(rng, 60), [5], CONTEXT, "subject"))
    found += [Continuation.of(tokens(rng, rng.randint(1, 20)), [1, 2], 12, "b") for _ in range(5)]
    return found


def own(model, continuation):
    with torch.no_grad():
        logits = model(torch.tensor([continuation.inputs])).logits[0]
    picked = logits.log_softmax(-1)[-len(continuation.targets) :]
    return sum(picked[i, t].item() for i, t in enumerate(continuation.targets))


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_equals_the_models_own(batch):
    model = tiny.model(max_position_embeddings=CONTEXT, attention_dropout=0.5)
    found, rows = asked(random.Random(0)), []
    model.train()
    scores = log_likelihoods(model, found, batch=batch, on_rows=rows.append)
    assert model.training, "the mode is the caller's"
    model.eval()
    assert scores == pytest.approx([own(model, c) for c in found], abs=1e-4)
    assert sum(rows) == len({c.inputs for c in found}), "one pass for all answers of one token"


def test_a_prefix_is_read_once_and_a_cut_prompt_does_not_hinder(monkeypatch):
    model = tiny.model(max_position_embeddings=CONTEXT)
    read = []
    body = type(model.model).forward
    monkeypatch.setattr(
        type(model.model),
        "forward",
        lambda self, **kw: read.append(kw["input_ids"].numel()) or body(self, **kw),
    )
    found = [c for c in asked(random.Random(0)) if c.family == "subject"]
    log_likelihoods(model, found, batch=1)
    every = sum(len(i) for i in {c.inputs for c in found})
    # 18 rows keep the prefix of 60 tokens whole; the 19th has lost its beginning. What the model
    # does to its logits is measured on 4 tokens, read three times.
    assert sum(read) - 12 == every - 17 * 60


def test_what_was_scored_before_memory_ran_out_stays(monkeypatch):
    model = tiny.model(max_position_embeddings=CONTEXT)
    found = asked(random.Random(1))
    expected = log_likelihoods(model, found, batch=1)
    import ila_core.inference.likelihood as module

    score, asked_for, failed = module._score, [], []

    def fails_once(token_loss, cache, skip, part, wanted):
        asked_for.extend(part)
        if len(part) > 2 and len(asked_for) > 8:
            failed.extend(part)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return score(token_loss, cache, skip, part, wanted)

    monkeypatch.setattr(module, "_score", fails_once)
    assert log_likelihoods(model, found, batch=8) == pytest.approx(expected, abs=1e-4)
    assert failed
    repeated = len(asked_for) - len({c.inputs for c in found})
    assert repeated <= 8 + 4, "only the batches that failed, at 8 and at 4 rows, are read again"


@pytest.mark.parametrize("passes", [1, 5])
def test_what_is_interrupted_goes_on_to_the_same_bits(monkeypatch, tmp_path, passes):
    import ila_core.inference.likelihood as module

    model = tiny.model(max_position_embeddings=CONTEXT)
    found = asked(random.Random(2))
    expected = log_likelihoods(model, found, batch=3)
    score, asked_for = module._score, []

    def killed(token_loss, cache, skip, part, wanted):
        if len(asked_for) == passes:
            raise KeyboardInterrupt
        asked_for.append(part)
        return score(token_loss, cache, skip, part, wanted)

    monkeypatch.setattr(module, "_score", killed)
    with pytest.raises(KeyboardInterrupt):
        log_likelihoods(model, found, batch=3, kept=tmp_path)
    (file,) = tmp_path.iterdir()
    with file.open("a") as cut:
        cut.write("[[3, -1.")  # a kill in the middle of a line
    rows, before = [], sum(map(len, asked_for))
    monkeypatch.setattr(module, "_score", score)
    assert log_likelihoods(model, found, batch=3, on_rows=rows.append, kept=tmp_path) == expected
    assert rows[0] == before and sum(rows) == len({c.inputs for c in found})
    file.write_text("[[9999, 1.0]]\n")
    with pytest.raises(CheckError, match="damaged; delete it"):
        log_likelihoods(model, found, batch=3, kept=tmp_path)


def test_short_prefixes_are_not_shared():
    inputs = [(1, 2, 3, i) for i in range(5)]
    wanted = {i: [(0,)] for i in inputs}
    assert _shared(inputs, dict.fromkeys(inputs, "a"), wanted) == [((), inputs)]


def test_an_answer_longer_than_the_context_is_refused():
    with pytest.raises(CheckError, match="an answer of 5 tokens does not fit a context of 4"):
        Continuation.of([1], [1] * 5, 4)


def test_no_memory_for_a_single_row_is_an_error_that_says_so(monkeypatch):
    import ila_core.inference.likelihood as module

    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(module, "_score", fails)
    with pytest.raises(CheckError, match="out of memory with one row of 2 tokens"):
        log_likelihoods(tiny.model(), [Continuation.of([1, 2], [3], 10)], batch=4)
