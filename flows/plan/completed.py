"""A profile with every default filled in that its model or its data decide."""

from typing import Any, TypeVar

from ila_core.config import LoraSettings, Profile, Schedule
from ila_core.config.derived import epochs, search_epochs
from ila_core.config.finetune import METHODS_WITH_SETTINGS
from ila_core.resolve import Lock, Unknown

_Lora = TypeVar("_Lora", bound=LoraSettings)


def completed(profile: Profile, lock: Lock) -> Profile:
    """Fill in what steps hash and the profile leaves out; a complete one is returned as it is.

    What a dataset decides stays open while that is not known: its steps have no key either.
    """
    counts = {d.name: lock.conversations(d) for d in profile.datasets}
    search, finetuning = profile.search, profile.finetune
    schedules = {}
    for name in search.datasets:
        given, count = search.schedules.get(name, Schedule()), counts[name]
        schedules[name] = given
        if _open(given) and not isinstance(count, Unknown):
            schedules[name] = given.model_copy(update={"epochs": search_epochs(count)})
    methods: dict[str, Any] = {}
    sizes = [counts[name] for name in finetuning.mixed] if counts else []
    known = [size for size in sizes if not isinstance(size, Unknown)]
    for method in METHODS_WITH_SETTINGS:
        settings = getattr(finetuning, method)
        if _open(settings) and known and len(known) == len(sizes):
            methods[method] = settings.model_copy(update={"epochs": epochs(sum(known), method)})
    model = lock.completed(profile.model)
    stage1 = search.stage1
    if any(layer.holds_experts for layer in lock.layers(model)):
        stage1 = stage1.model_copy(update={"lora": _without_dropout(stage1.lora)})
        methods["lora"] = _without_dropout(methods.get("lora", finetuning.lora))
    return profile.model_copy(
        update={
            "model": model,
            "search": search.model_copy(update={"schedules": schedules, "stage1": stage1}),
            "finetune": finetuning.model_copy(update=methods),
        }
    )


def _without_dropout(settings: _Lora) -> _Lora:
    """Set the dropout that nobody has written to 0: PEFT adapts experts without."""
    if "dropout" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"dropout": 0.0})


def _open(schedule: Schedule) -> bool:
    return schedule.epochs is None and schedule.steps is None
