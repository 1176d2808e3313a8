"""Alignment datasets: one file each, from the hub or from a local file, with the same result.

    >>> lima = DatasetConfig(name="lima", loader="lima", path="lima/train.jsonl")
    >>> identity = content_digest(load_dataset(lima, None))

Nothing here imports torch or transformers: keys are computed from these conversations before
anything runs.
"""

import re
from pathlib import Path

from ila_core import hub
from ila_core.config import DatasetConfig
from ila_core.data import alpaca_gpt4, dolly, file, lima, no_robots
from ila_core.data.conversation import Conversation, Message, content_digest, content_hash
from ila_core.data.formats import Dataset
from ila_core.data.rows import read_rows
from ila_core.errors import UserError, unknown_name

__all__ = [
    "DATASETS",
    "Conversation",
    "Message",
    "check_loader",
    "content_digest",
    "content_hash",
    "hub_revision",
    "licence",
    "load_dataset",
]

DATASETS = {
    "alpaca_gpt4": alpaca_gpt4.DATASET,
    "dolly": dolly.DATASET,
    "file": file.DATASET,
    "lima": lima.DATASET,
    "no_robots": no_robots.DATASET,
}


def licence(config: DatasetConfig) -> str:
    """The licence of a dataset, `not stated` where neither its loader nor the profile says."""
    return config.licence or _dataset(config).licence or "not stated"


def load_dataset(config: DatasetConfig, revision: str | None) -> list[Conversation]:
    """Every conversation of a dataset, in file order, unusable ones included.

    Args:
        config: which loader, and a local `path` if not the hub.
        revision: hub commit to read; of no effect on a local file.

    Raises:
        UserError: an unknown loader, an unreachable hub, or a file, row or field that is wrong.
    """
    dataset = _dataset(config)
    files = [_local(config.path)] if config.path else _download(config, dataset, revision)
    conversations = [dataset.parse(row) for path in files for row in read_rows(path)]
    if not conversations:
        raise UserError(f"dataset {config.name}: {', '.join(map(str, files))} has no rows")
    return conversations


def check_loader(config: DatasetConfig) -> None:
    """Refuse what could never be loaded, before anything is looked for.

    Raises:
        UserError: an unknown loader, or one without a home on the hub and no `path`.
    """
    dataset = _dataset(config)
    if config.path is None:
        _repo(config, dataset)


def hub_revision(config: DatasetConfig) -> str:
    """The hub commit that a dataset without `path` is at now."""
    return hub.current_commit(_repo(config, _dataset(config)), kind="dataset")


def _dataset(config: DatasetConfig) -> Dataset:
    if config.loader not in DATASETS:
        raise unknown_name("dataset loader", config.loader, DATASETS)
    return DATASETS[config.loader]


def _repo(config: DatasetConfig, dataset: Dataset) -> str:
    if dataset.repo is None:
        raise UserError(
            f"dataset {config.name}: the loader {config.loader!r} reads a local file only; "
            "set `path:` to it"
        )
    return dataset.repo


def _local(path: str) -> Path:
    return Path(path).expanduser()


def _download(config: DatasetConfig, dataset: Dataset, revision: str | None) -> list[Path]:
    repo = _repo(config, dataset)
    files = sorted(hub.fetch(repo, [dataset.files], revision, kind="dataset").glob(dataset.files))
    # An interrupted download leaves some shards, which the hub's cache hands out when offline.
    shards = {int(n) for path in files for n in re.findall(r"-of-(\d+)", path.name)}
    if not files or (shards and shards != {len(files)}):
        found = ", ".join(path.name for path in files) or "none"
        raise UserError(
            f"dataset {config.name}: the download of {repo} is not complete (files like "
            f"{dataset.files}: {found}); connect to the hub and run again, or set `path:`"
        )
    return files
