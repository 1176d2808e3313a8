"""Where a dataset's rows lie: files of this machine or of the hub.

A source is a name of `DATASETS`, a hub id (`org/name`), a file, a folder or a pattern. What exists
as a file or a folder is one.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from yaml import YAMLError

from ila_core import hub
from ila_core.config import DatasetConfig
from ila_core.data.json_files import read_object
from ila_core.data.rows import ending, readable
from ila_core.errors import UserError, first_line, listed, unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping


class HubDataset(NamedTuple):
    repo: str
    files: str
    """Glob of its training files inside the repository."""
    licence: str
    """The licence on its hub page."""


DATASETS = {
    "lima": HubDataset(
        "GAIR/lima", "train.jsonl", "CC BY-NC-SA 4.0, or stricter where a source is"
    ),
    "no_robots": HubDataset("HuggingFaceH4/no_robots", "data/train*.parquet", "CC BY-NC 4.0"),
    "alpaca_gpt4": HubDataset("vicgalle/alpaca-gpt4", "data/train*.parquet", "CC BY-NC 4.0"),
    "dolly": HubDataset(
        "databricks/databricks-dolly-15k", "databricks-dolly-15k.jsonl", "CC BY-SA 3.0"
    ),
}

_NO_DATASET = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, YAMLError,
               FileNotFoundError)  # fmt: skip
"""What `datasets` raises where a folder, its README or a script is not what it reads."""
_SHARD = re.compile(r"-of-(\d+)")


def is_local(config: DatasetConfig) -> bool:
    """Whether the source is on this machine.

    Raises:
        UserError: a name of `DATASETS` that is a file or a folder too, or none of all that.
    """
    source = config.source
    there = _path(source).exists()
    if source in DATASETS:
        if there:
            raise UserError(
                f"dataset {config.name}: source {source!r} is a dataset of the hub and a path "
                f"here: write {DATASETS[source].repo} or ./{source}"
            )
        return False
    if (
        there
        or source.startswith((".", "/", "~"))
        or glob.has_magic(source)
        or readable(Path(source))
    ):
        return True
    if hub.HUB_ID.fullmatch(source):
        return False
    raise unknown_name("dataset, file or folder", source, DATASETS)


def repo_of(config: DatasetConfig) -> str:
    """The hub id of a source that is not local."""
    return DATASETS[config.source].repo if config.source in DATASETS else config.source


def licence(config: DatasetConfig) -> str:
    """The licence of a dataset, `not stated` where neither the profile nor `DATASETS` says."""
    known = DATASETS.get(config.source)
    return config.licence or (known.licence if known else "not stated")


def hub_revision(config: DatasetConfig) -> str:
    """The hub commit that a dataset is at now."""
    return hub.current_commit(repo_of(config), kind="dataset")


def files_of(config: DatasetConfig, revision: str | None) -> list[Path]:
    """Return the files that hold the rows, in order; those of the hub are downloaded.

    Args:
        config: the dataset.
        revision: the hub commit; of no effect on what is local.

    Raises:
        UserError: nothing is there, or not in the split that is asked for.
    """
    if not is_local(config):
        return _of_hub(config, revision)
    path = _path(config.source)
    if path.is_dir():
        return _of_folder(config, path)
    if path.is_file() or not glob.has_magic(config.source):
        if not path.is_file():
            raise UserError(
                f"dataset {config.name}: {config.source} does not exist; set the dataset's "
                f"`source` to a file, a folder, a hub id or one of {', '.join(DATASETS)}"
            )
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    files = [file for file in found if file.is_file()]
    if not files:
        raise UserError(f"dataset {config.name}: no file matches {config.source}")
    return files


def _path(source: str) -> Path:
    return Path(source).expanduser()


def _of_folder(config: DatasetConfig, folder: Path) -> list[Path]:
    """The files of the split, by the rules of `datasets`; or the shards of `save_to_disk`."""
    saved = folder / config.split if (folder / "dataset_dict.json").is_file() else folder
    if (saved / "state.json").is_file():
        return _shards_of(saved)
    if saved != folder:
        raise _no_split(config, [x.parent.name for x in sorted(folder.glob("*/state.json"))])
    files = [Path(file) for file in _data_files(config, str(folder), None)]
    _refuse_other_formats(config, folder, files)
    return files


def _refuse_other_formats(config: DatasetConfig, folder: Path, files: list[Path]) -> None:
    """`datasets` takes the commonest format, in silence, unless a README says which files."""
    if (folder / "README.md").is_file():
        return
    formats = {ending(file) for file in files}
    others = [
        str(file.relative_to(folder))
        for file in sorted(folder.rglob("*"))
        if readable(file)
        and file.is_file()
        and ending(file) not in formats
        and not file.name.startswith((".", "dataset_info"))
    ]
    if others:
        raise UserError(
            f"dataset {config.name}: {folder} holds {listed([f.name for f in files], 3)} and, in "
            f"another format, {listed(others, 3)}; give a pattern of the files that are meant, "
            f"such as {folder}/*{files[0].suffix}"
        )


def _shards_of(saved: Path) -> list[Path]:
    """The Arrow files of a dataset that `save_to_disk` wrote."""
    state = read_object(saved / "state.json")
    if state.get("_indices_data_files") or state.get("_format_columns"):
        raise UserError(f"{saved}: a view of a dataset; save it after `flatten_indices()`")
    try:
        shards = [saved / file["filename"] for file in state["_data_files"]]
    except (TypeError, LookupError):
        shards = []
    if not shards:
        raise UserError(f"{saved / 'state.json'} names no data files, as `save_to_disk` does")
    return shards


def _of_hub(config: DatasetConfig, revision: str | None) -> list[Path]:
    repo = repo_of(config)
    if config.source in DATASETS:
        pattern = DATASETS[config.source].files
        files = sorted(hub.fetch(repo, [pattern], revision, kind="dataset").glob(pattern))
    elif hub.is_offline() and (folder := hub.cached(repo, revision, kind="dataset")) is not None:
        files = [Path(file) for file in _data_files(config, str(folder), None)]
    else:
        prefix = f"hf://datasets/{repo}@{revision}/"
        names = [name.removeprefix(prefix) for name in _data_files(config, repo, revision)]
        # Its README may say which files are of a split, which counts when offline.
        folder = hub.fetch(repo, [*names, "README.md"], revision, kind="dataset")
        files = [file for name in names if (file := folder / name).is_file()]
    # An interrupted download leaves some shards, which the hub's cache hands out when offline.
    shards = {int(n) for path in files for n in _SHARD.findall(path.name)}
    if not files or (shards and shards != {len(files)}):
        raise UserError(
            f"dataset {config.name}: the download of {repo} is not complete (there is "
            f"{listed([path.name for path in files], 3) or 'no file'}); connect to the hub and run "
            "again, or set `source:` to a local copy"
        )
    return files


def _data_files(config: DatasetConfig, where: str, revision: str | None) -> list[str]:
    """The files of the split as `datasets` finds them, in a folder or on the hub."""
    import tempfile

    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetNotFoundError

    with tempfile.TemporaryDirectory() as cache, hub.explained(where, revision, "dataset"):
        try:
            builder = load_dataset_builder(where, config.config, revision=revision, cache_dir=cache)
        except DatasetNotFoundError as error:
            raise UserError(f"dataset {config.name}: {first_line(error)}") from error
        except _NO_DATASET as error:
            raise UserError(
                f"dataset {config.name}: {where} is not read as a dataset ({first_line(error)})"
            ) from error
    splits: Mapping[str, Any] = builder.config.data_files or {}
    if config.split not in splits:
        raise _no_split(config, list(splits))
    return sorted(map(str, splits[config.split]))


def _no_split(config: DatasetConfig, has: list[str]) -> UserError:
    return UserError(
        f"dataset {config.name}: {config.source} has no split {config.split!r}; it has "
        f"{', '.join(map(str, has)) or 'none'}"
    )
