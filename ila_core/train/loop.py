"""The one set-up of `transformers.Trainer` behind stage 1, stage 2 and every fine-tuning method.

What the optimizer sees in a step depends on the rows, the batch size and the seed alone. How those
conversations are packed into micro-batches is a runtime setting: the loss is the token mean over
the whole step, so the layout moves it by rounding only (and by other dropout masks).
"""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_scheduler,
)

from ila_core.config import OptimizerSettings, Schedule, StabilitySettings
from ila_core.config.base import FrozenResult
from ila_core.data.batches import (
    MicroBatches,
    Row,
    check_rows,
    plan_batches,
    planned_steps,
    rows_digest,
)
from ila_core.errors import Diverged, UserError
from ila_core.keys import digest_of
from ila_core.provenance import seeded
from ila_core.train.checkpoints import KEPT, CheckpointFolder, held_folder, seal
from ila_core.train.lora_function import fused_lora
from ila_core.train.loss import TokenLoss
from ila_core.train.memory import Allocations, measured
from ila_core.train.optimizer import MakeOptimizer, adamw
from ila_core.train.recompute import recomputing_activations
from ila_core.train.stability import ceiling_steps, is_stable

log = logging.getLogger("ila")

# Plain `constant` of transformers leaves out the warm-up without a word.
_SHAPES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}

_TRAINED, _CALLBACKS, _TENSORS = "trained.safetensors", "callbacks.json", "callbacks.safetensors"


@dataclass(frozen=True)
class TrainRuntime:
    """Runtime settings of a training: how it is laid out and watched. None is part of a key."""

    micro_batch: int = 8
    """Most packed rows per forward pass, none longer than the step's longest conversation (the
    same as `RuntimeConfig.micro_batch`)."""
    on_metrics: Callable[[int, dict[str, float]], None] | None = None
    """Called after every step with `loss`, `lr` and `progress`, a fraction of the steps at most."""
    label: str = "train"
    progress: bool = False
    """A progress bar, if standard error is a terminal."""
    count_allocations: bool = False
    """On a CPU, follow what the largest step allocates; a GPU counts by itself."""
    checkpoints: CheckpointFolder | None = None
    """Where an interrupted training goes on from; `None` starts anew."""


class TrainResult(FrozenResult):
    losses: list[float]
    """Mean token loss of every step, in nats."""
    guessing: float | None = None
    """The loss of guessing, ln of the vocabulary's size."""
    steps: int
    planned_steps: int
    stable: bool | None
    """`None`: nobody asked for stability."""
    stable_at: int | None
    seconds: float
    """Those of an interrupted training up to its last checkpoint included."""
    peak_memory_bytes: int | None
    """Since the last start."""
    peak_allocated_bytes: int | None
    """Held by tensors: what a forecast of memory is held to; `None` where nobody counted."""


def train(
    model: Any,
    rows: Sequence[Row],
    *,
    schedule: Schedule,
    optimizer: OptimizerSettings,
    seed: int,
    stability: StabilitySettings | None = None,
    make_optimizer: MakeOptimizer | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    penalty: Callable[[], Tensor] | None = None,
    autocast: torch.dtype | None = None,
    runtime: TrainRuntime | None = None,
) -> TrainResult:
    """Train whatever in `model` requires a gradient, in place.

    Args:
        model: a causal language model of transformers, with or without a PEFT adapter.
        rows: tokenised conversations.
        schedule: peak learning rate and planned length.
        optimizer: batch size, learning-rate shape, clipping, and AdamW's own settings.
        seed: order of the rows (whatever the model) and dropout.
        stability: stop at the first stable step, or at the ceiling; `None` trains to the end.
        make_optimizer: something other than AdamW over the trainable parameters.
        callbacks: `TrainerCallback`s that look on; gradients are there in `on_pre_optimizer_step`.
            One that remembers anything has `state()`, as JSON, and `restore(state)`; one that
            remembers tensors has `tensors()` and `restore_tensors(tensors)` as well.
        penalty: added to the loss once a step, 0-d; the losses reported are without it.
        autocast: what a step computes in, where that is not the weights' dtype.
        runtime: micro-batch, progress, checkpoints; changes no result beyond rounding.

    Raises:
        UserError: fewer rows than a batch, or a row without loss.
        Diverged: a loss that is not finite.
    """
    here = runtime or TrainRuntime()
    planned = planned_steps(schedule, len(rows), optimizer.batch_size)
    check_rows(rows, optimizer.batch_size)
    batches = plan_batches(len(rows), optimizer.batch_size, planned, seed)
    device = next(model.parameters()).device

    settings = [seed, schedule.model_dump(), optimizer.model_dump()]
    identity = digest_of([settings, rows_digest(rows), _shapes(model)])
    with (
        _mode_restored(model),
        fused_lora(model),
        recomputing_activations(model),
        # Its cache of cast weights would outlive the optimizer's steps.
        torch.autocast(device.type, autocast, autocast is not None, cache_enabled=False),
        seeded(seed),
        held_folder(here.checkpoints, identity) as (folder, checkpoint),
        measured(device) as cost,
    ):
        parameters = [p for p in model.parameters() if p.requires_grad]
        optim = (make_optimizer or adamw(schedule.lr, optimizer))(parameters)
        shape = get_scheduler(
            _SHAPES[optimizer.schedule],
            optim,
            num_warmup_steps=math.ceil(optimizer.warmup_ratio * planned),
            num_training_steps=planned,  # never shortened: stopping early changes no earlier step
        )
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=1,  # the plan is one pass over all of its steps
            max_grad_norm=optimizer.max_grad_norm,
            seed=seed,
            use_cpu=device.type == "cpu",
            save_strategy="no",  # `_Journal` says when
            save_total_limit=KEPT,
            logging_strategy="no",
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
        )
        if arguments.world_size > 1:
            raise UserError("training runs in one process; start it without torchrun or accelerate")
        arguments._n_gpu = 1  # else Trainer wraps the model in DataParallel where it sees more
        trainer = _Trainer(
            model=model,
            args=arguments,
            optimizers=(optim, shape),
            micro_batches=MicroBatches(rows, batches, here.micro_batch),
            identity=identity,
            penalty=penalty,
            count_allocations=here.count_allocations and device.type == "cpu",
        )
        journal = _Journal(trainer, batches, stability, here)
        trainer.remove_callback(PrinterCallback)
        for callback in (*callbacks, journal):
            trainer.add_callback(callback)
        try:
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        finally:
            journal.close()
            trainer.accelerator.free_memory()
    return TrainResult(
        losses=journal.losses,
        guessing=trainer.guessing,
        steps=len(journal.losses),
        planned_steps=planned,
        stable=journal.stable,
        stable_at=len(journal.losses) if journal.stable else None,
        seconds=journal.seconds_before + cost.seconds,
        peak_memory_bytes=cost.peak_memory_bytes,
        peak_allocated_bytes=(
            cost.peak_memory_bytes if device.type == "cuda" else trainer.allocations.peak or None
        ),
    )


@contextmanager
def _mode_restored(model: Any) -> Iterator[None]:
    """Restore `use_cache` and the train mode, which Trainer changes, when the block ends."""
    base = getattr(model, "get_base_model", lambda: model)()
    training, use_cache = base.training, base.config.use_cache
    try:
        yield
    finally:
        model.train(training)
        base.config.use_cache = use_cache


def _shapes(model: Any) -> list[list[Any]]:
    return [[name, list(p.shape)] for name, p in model.named_parameters() if p.requires_grad]


class _Trainer(Trainer):  # type: ignore[misc]
    """A Trainer with our loss, whose checkpoints hold only what trains."""

    def __init__(
        self,
        *,
        micro_batches: MicroBatches,
        identity: str,
        penalty: Callable[[], Tensor] | None,
        count_allocations: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._micro_batches, self._identity = micro_batches, identity
        self._penalty, self._count_allocations = penalty, count_allocations
        self.allocations = Allocations()
        self._counted: int | None = None
        self._token_loss = TokenLoss(self.model)
        self.guessing = math.log(self._token_loss.vocabulary)
        self._token_loss.keeps_apart()
        self.step_loss = torch.zeros(())

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        # One step a batch: a resumed training skips batches, and collates none of them.
        return DataLoader(self._micro_batches, batch_size=1, collate_fn=itemgetter(0))  # type: ignore[arg-type]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *_: Any) -> Tensor:
        """Run all micro-batches of a step: their number differs, which Trainer does not allow."""
        model.train()
        inputs = self._prepare_inputs(inputs)
        with self._counting():
            losses = [
                self._token_loss.backward(batch, inputs["step_tokens"])
                for batch in inputs["micro_batches"]
            ]
            if self._penalty is not None:
                self._penalty().backward()  # type: ignore[no-untyped-call]
        self.step_loss = torch.stack(losses).sum()
        return self.step_loss

    def _counting(self) -> AbstractContextManager[None]:
        """Count allocations in the largest step. The first step is left out: it has no optimizer
        state yet."""
        if not self._count_allocations or not self.optimizer.state:
            return nullcontext()
        done = self.state.global_step
        if self._counted is None:
            self._counted = self._micro_batches.largest(start=done)
        if done != self._counted:
            return nullcontext()
        states = (value for state in self.optimizer.state.values() for value in state.values())
        held = [*self.model.parameters(), *self.model.buffers(), *self._remembered().values()]
        return self.allocations.watched(held + [x for x in states if isinstance(x, Tensor)])

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(str(output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        trained = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        save_file(trained, folder / _TRAINED)
        states = [callback.state() for callback in self._remembering]
        (folder / _CALLBACKS).write_text(json.dumps(states), encoding="ascii")
        if tensors := self._remembered():
            save_file(tensors, folder / _TENSORS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in load_file(folder / _TRAINED).items():
                parameters[name].copy_(value)
        states = json.loads((folder / _CALLBACKS).read_bytes())
        for callback, state in zip(self._remembering, states, strict=True):
            callback.restore(state)
        if (folder / _TENSORS).exists():
            device = next(self.model.parameters()).device
            tensors = load_file(folder / _TENSORS, device=str(device))
            for i, callback in enumerate(self._remembering):
                own = {n.partition("/")[2]: t for n, t in tensors.items() if n.startswith(f"{i}/")}
                if own:
                    callback.restore_tensors(own)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        seal(Path(self.args.output_dir, f"checkpoint-{self.state.global_step}"), self._identity)

    @property
    def _remembering(self) -> list[Any]:
        return [c for c in self.callback_handler.callbacks if hasattr(c, "restore")]

    def _remembered(self) -> dict[str, Tensor]:
        return {
            f"{i}/{name}": tensor
            for i, callback in enumerate(self._remembering)
            for name, tensor in getattr(callback, "tensors", dict)().items()
        }


class _Journal(TrainerCallback):  # type: ignore[misc]
    """Records and reports the loss of every step, and decides when to save and when to stop."""

    def __init__(
        self,
        trainer: _Trainer,
        batches: list[list[int]],
        stability: StabilitySettings | None,
        here: TrainRuntime,
    ) -> None:
        self.losses: list[float] = []
        self.stable: bool | None = None if stability is None else False
        self.seconds_before = 0.0
        """What earlier, interrupted attempts took up to their last checkpoint."""
        self._trainer, self._batches, self._stability = trainer, batches, stability
        self._planned = planned = len(batches)
        self._most = planned if stability is None else ceiling_steps(stability, planned)
        self._on_metrics, self._checkpoints = here.on_metrics, here.checkpoints
        self._started = self._saved = time.monotonic()
        shown = here.progress and sys.stderr.isatty()
        self._bar = tqdm(total=self._most, desc=here.label, unit="step", disable=not shown)
        self._lr = 0.0

    def state(self) -> dict[str, Any]:
        seconds = self.seconds_before + time.monotonic() - self._started
        return {"losses": self.losses, "seconds": seconds}

    def restore(self, state: dict[str, Any]) -> None:
        self.losses, self.seconds_before = state["losses"], state["seconds"]
        self._bar.update(len(self.losses))

    def on_optimizer_step(self, *_: Any, optimizer: torch.optim.Optimizer, **__: Any) -> None:
        self._lr = float(optimizer.param_groups[0]["lr"])  # before the schedule moves on

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        step = state.global_step
        loss = self._trainer.step_loss.item()
        if not math.isfinite(loss):
            raise Diverged(self._broken(loss, step))
        self.losses.append(loss)
        if step == 1 and loss > self._trainer.guessing + 1:
            log.warning(
                "the first loss is %.2f nats, and guessing any token costs %.2f: is the tokenizer "
                "that of this model, and are its weights whole?",
                *(loss, self._trainer.guessing),
            )
        self._bar.update()
        if self._on_metrics is not None:
            progress = step / self._most
            self._on_metrics(step, {"loss": loss, "lr": self._lr, "progress": progress})
        if self._stability is not None:
            self.stable = is_stable(self.losses, self._stability, self._planned)
            control.should_training_stop |= self.stable or step >= self._most
        if control.should_training_stop and step < self._most:
            self._bar.set_postfix_str(f"ends here: {'loss' if self.stable else 'ranking'} stable")
        if self._checkpoints is not None and step < self._planned:
            due = time.monotonic() - self._saved >= self._checkpoints.seconds
            # Never where training stops: it would go on from there.
            control.should_save |= due and not control.should_training_stop

    def on_save(self, *_: Any, **__: Any) -> None:
        self._saved = time.monotonic()

    def _broken(self, loss: float, step: int) -> str:
        rows = ", ".join(map(str, sorted(self._batches[step - 1])))
        saved = self._checkpoints.found() if self._checkpoints else []
        good = f"; last good checkpoint: {saved[-1]}" if saved else ""
        return (
            f"the loss is {loss} at step {step} of {self._planned}, on rows {rows} of the split; "
            f"lower the learning rate, or look at these rows and the adapter that went in{good}"
        )

    def close(self) -> None:
        self._bar.close()
