"""One complete run."""

from typing import Any, Self

from pydantic import ValidationError, field_validator, model_validator

from ila_core.config.base import Frozen, default, must_be_in, named, refuse_repeats
from ila_core.config.evaluation import EvaluateConfig
from ila_core.config.finetune import BASE, FinetuneConfig, usual_arms
from ila_core.config.inputs import DataConfig, DatasetConfig, ModelConfig
from ila_core.config.search import SearchConfig


class Profile(Frozen):
    """One complete run (`profiles/runs/*.yaml`)."""

    name: str = named("the file's name, or those of the model and the datasets")
    """What the run is called."""
    description: str = default("", "ours: none")
    """One line for people."""
    model: ModelConfig
    """The base model: a name that ILA knows, a hub id, a folder, a `.yaml` file, or its fields."""
    datasets: tuple[DatasetConfig, ...]
    """The alignment datasets; none (`[]`) for a search by a scorer that reads weights alone."""
    data: DataConfig = DataConfig()
    search: SearchConfig = SearchConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    sources: dict[str, str] = default({}, "ours: none")
    """Dotted field to where a written value comes from: `paper, Appendix B.1` or `ours: why`."""

    @model_validator(mode="before")
    @classmethod
    def _names_that_follow(cls, given: Any) -> Any:
        """Fill in the names that the datasets and the arms decide."""
        if not isinstance(given, dict):
            return given
        try:
            names = [DatasetConfig.model_validate(d).name for d in given["datasets"]]
            if not names:
                return given
            search = {"datasets": names, **_block(given, "search")}
            finetune = {"dataset": names[0], **_block(given, "finetune")}
            finetune.setdefault("arms", usual_arms(finetune["dataset"], search["datasets"]))
            first = {"against": finetune["arms"][0]["name"]}
            evaluate = {**first, **_block(given, "evaluate")}
        except (KeyError, TypeError, IndexError, AttributeError, ValidationError):
            return given  # what is wrong there, its own validation says
        return {**given, "search": search, "finetune": finetune, "evaluate": evaluate}

    @field_validator("datasets")
    @classmethod
    def _unique_datasets(cls, datasets: tuple[DatasetConfig, ...]) -> tuple[DatasetConfig, ...]:
        refuse_repeats("datasets", [d.name for d in datasets])
        return datasets

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        datasets = [d.name for d in self.datasets]
        if not datasets:
            return self
        if not self.search.datasets:
            raise ValueError("search.datasets: give one at least, or leave it out for all")
        for name in self.search.datasets:
            must_be_in("search.datasets", name, datasets)
        for name in self.search.schedules:
            must_be_in("search.schedules", name, list(self.search.datasets))
        for name in self.finetune.mixed:
            must_be_in("finetune.dataset", name, datasets)
        refuse_repeats("finetune.dataset", self.finetune.mixed)
        for i, name in enumerate(self.finetune.other_datasets):
            must_be_in(f"finetune.other_datasets.{i}", name, datasets)
        arms = [arm.name for arm in self.finetune.arms]
        refuse_repeats("finetune.arms", arms)
        refuse_repeats("search.seeds", self.search.seeds)
        refuse_repeats("finetune.seeds", self.finetune.seeds)
        if BASE in arms:
            raise ValueError(f"finetune.arms: {BASE!r} is what the untrained model is called")
        must_be_in("evaluate.against", self.evaluate.against, arms)
        for name in self.evaluate.adapters:
            if name in (BASE, *arms):
                raise ValueError(f"evaluate.adapters: {name!r} is an arm's name already")
        for name in self.evaluate.answers:
            if name in (BASE, *arms, *self.evaluate.adapters):
                raise ValueError(f"evaluate.answers: {name!r} is another model's name already")
        for i, arm in enumerate(self.finetune.arms):
            if arm.source is not None:
                must_be_in(f"finetune.arms.{i}.source", arm.source, list(self.search.datasets))
            if arm.like is not None:
                must_be_in(f"finetune.arms.{i}.like", arm.like, arms[:i])
        search = self.search
        rows = {"search.stage2": search.stage2.rows, "search.scoring": search.scoring.rows}
        if search.stage1.ranking_stop is not None:
            rows["search.stage1.ranking_stop.scoring"] = search.stage1.ranking_stop.scoring.rows
        for part, split in rows.items():
            if split == "gate" and self.data.gate_fraction == 0:
                raise ValueError(
                    f"{part}.rows is 'gate' but data.gate_fraction is 0: hold rows back "
                    f"(data.gate_fraction > 0) or use the training rows ({part}.rows: train)"
                )
        return self

    def dataset(self, name: str) -> DatasetConfig:
        """The dataset called `name`, which validation has proved to exist."""
        return next(d for d in self.datasets if d.name == name)


def _block(given: dict[str, Any], part: str) -> Any:
    """A part that is left out or null is all defaults."""
    return {} if given.get(part) is None else given[part]
