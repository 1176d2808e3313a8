"""What a profile's names resolve to: content hashes, hub revisions, layers.

Keys are computed from this before anything runs. The lock lies in `ILA_HOME/lock.json`; a local
file's entry holds size, mtime and inode and is hashed again when any of them differs; a hub entry
is valid for its revision only. What cannot be resolved offline is an `Unknown` with its reason.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ila_core import hub
from ila_core.config import DatasetConfig, ModelConfig
from ila_core.data import Dataset
from ila_core.data.json_files import read_object
from ila_core.data.sources import files_of, hub_revision, is_local, repo_of
from ila_core.errors import UserError
from ila_core.keys import digest_of, file_digest, key_of
from ila_core.locks import exclusive
from ila_core.models.architecture import ModelFacts, completed, facts
from ila_core.models.files import (
    CONFIG,
    TOKENIZER_FILES,
    hub_model_revision,
    model_files,
    model_files_digest,
)
from ila_core.models.layers import UNCOVERED, Examined, Layer
from ila_core.models.quantised import refuse_quantised

log = logging.getLogger("ila")

# Raised when the same files would be read as something else: the old entries then miss.
_DATASET, _MODEL, _LAYERS, _FILES = "dataset v3", "model v3", "layers v5", "files v3"
_FACTS, _ROWS = "facts v1", "rows v1"


@dataclass(frozen=True)
class Unknown:
    """An identity that could not be resolved, and why."""

    reason: str


class Lock:
    """Resolved identities, kept between runs.

    Args:
        home: `ILA_HOME`.
        online: resolve and download what is missing (a run), or answer `Unknown` (a plan, unless
            the hub's local cache, which is all there is offline, has it).
        rehash: read every local file again.
    """

    def __init__(self, home: Path, *, online: bool, rehash: bool = False) -> None:
        self._path = home / "lock.json"
        self._online = online
        self._rehash = rehash
        self._fresh: set[str] = set()
        self._said: set[str] = set()

    def dataset(self, config: DatasetConfig) -> str | Unknown:
        """Digest over the dataset's conversations, whichever way they are read."""
        found = self._content(config)
        return found if isinstance(found, Unknown) else str(found["digest"])

    def conversations(self, config: DatasetConfig) -> int | Unknown:
        """How many conversations of the dataset can be learned from."""
        found = self._content(config)
        return found if isinstance(found, Unknown) else int(found["conversations"])

    def _content(self, config: DatasetConfig) -> dict[str, Any] | Unknown:
        read = config.model_dump(exclude={"name", "revision", "licence", "stands_for", "held_out"})

        def of(revision: str | None) -> dict[str, Any]:
            rows = Dataset(config, revision).read()
            return {"digest": rows.digest(), "conversations": rows.usable}

        if is_local(config):
            name = f"{_DATASET} {Path.cwd()} {key_of(read)}"
            found: dict[str, Any] = self._local(name, files_of(config, None), lambda: of(None))
            return found
        revision = self._dataset_revision(config)
        if isinstance(revision, Unknown):
            return revision
        name = f"{_DATASET} {repo_of(config)}@{revision} {key_of(read)}"
        return self._remote(
            name,
            lambda: of(revision),
            f"{name} has not been downloaded yet; the first run does, and locks it",
        )

    def rows(self, key: str) -> dict[str, Any] | None:
        """The statistics of the rows that the step `key` prepares (`prepared.json`), if known."""
        found: dict[str, Any] | None = self._read().get(f"{_ROWS} {key}")
        return found

    def keep_rows(self, key: str, statistics: Mapping[str, Any]) -> None:
        """Remember what `rows` answers."""
        self._write(f"{_ROWS} {key}", statistics)

    def dataset_revision(self, config: DatasetConfig) -> str | None:
        """The hub commit that the dataset resolved to; `None` for what is local."""
        if is_local(config):
            return None
        revision = self._dataset_revision(config)
        assert isinstance(revision, str), "a step whose dataset is unknown cannot be computed"
        return revision

    def _dataset_revision(self, config: DatasetConfig) -> str | Unknown:
        return self._revision(
            f"dataset {repo_of(config)}", config.revision, lambda: hub_revision(config)
        )

    def hub_dataset(self, repo: str, revision: str | None) -> str | Unknown:
        """The commit of a hub dataset that no loader of ours reads."""
        return self._revision(
            f"dataset {repo}", revision, lambda: hub.current_commit(repo, kind="dataset")
        )

    def files(self, given: str, patterns: Sequence[str] = ()) -> str:
        """Digest over a file, or over what `patterns` match in a folder, by name and content.

        Raises:
            UserError: nothing is there.
        """
        path = Path(given).expanduser()
        found = sorted(f for p in patterns for f in path.glob(p)) if patterns else [path]
        if not found or not all(f.is_file() for f in found):
            raise UserError(
                f"{given} {'holds no ' + ' or '.join(patterns) if patterns else 'is not a file'}"
            )
        digest: str = self._local(
            f"{_FILES} {path.absolute()} {' '.join(patterns)}",
            found,
            lambda: digest_of(
                {f.relative_to(path.parent).as_posix(): file_digest(f) for f in found}
            ),
        )
        return digest

    def model(self, config: ModelConfig) -> dict[str, str] | Unknown:
        """`{"files": digest}` of a local folder; `{"hub": id, "revision": commit}` otherwise."""
        if config.local:
            folder = Path(config.source).expanduser()
            model_files(folder)  # says what is missing
            refuse_quantised(config.name, folder)
            return {"files": self._digest_of_model(folder)}
        revision = self._revision(
            f"model {config.source}", config.revision, lambda: hub_model_revision(config)
        )
        if isinstance(revision, Unknown):
            return revision
        return {"hub": config.source, "revision": revision}

    def completed(self, config: ModelConfig) -> ModelConfig:
        """Fill in what the profile leaves to the model's own files.

        Those of a hub model that are asked for, its configuration and tokenizer, are downloaded by
        a plan too: without them there are no layers to plan with.

        Raises:
            UserError: files that are missing or that transformers cannot read.
        """
        return completed(config, lambda: self._facts(config))

    def _facts(self, config: ModelConfig) -> ModelFacts:
        if config.local:
            folder = Path(config.source).expanduser()
            model_files(folder)  # says what is missing
            files = {file for name in (CONFIG, *TOKENIZER_FILES) for file in folder.glob(name)}
            name = f"{_FACTS} {folder.absolute()}"
            found = self._local(name, sorted(files), lambda: facts(config).model_dump())
        else:
            pinned = self._pinned(config)
            name = f"{_FACTS} {config.source}@{pinned.revision}"
            found = self._read().get(name)
            if found is None:
                found = facts(pinned).model_dump()
                self._write(name, found)
        return ModelFacts.model_validate(found)

    def _pinned(self, config: ModelConfig) -> ModelConfig:
        """The configuration with its hub revision, looked up if nobody has."""
        if config.local or config.revision is not None:
            return config
        name = _revision_of(f"model {config.source}")
        revision = self._read().get(name)
        if revision is None:
            revision = hub_model_revision(config)
            self._write(name, revision)
        return config.model_copy(update={"revision": revision})

    def _digest_of_model(self, folder: Path) -> str:
        name, files = f"{_MODEL} {folder.absolute()}", model_files(folder)
        digest: str = self._local(name, files, lambda: model_files_digest(folder))
        return digest

    def folder_of(self, files: str) -> Path | None:
        """The local folder of a model with this digest, where a run has seen one."""
        for name, entry in self._read().items():
            if name.startswith(f"{_MODEL} /") and entry["value"] == files:
                folder = Path(name.removeprefix(f"{_MODEL} "))
                try:
                    if self._digest_of_model(folder) == files:
                        return folder
                except UserError:  # it is not there any more
                    continue
        return None

    def layers(self, config: ModelConfig) -> tuple[Layer, ...]:
        """The base model's linear layers: a question to its configuration, so never unknown."""
        return self.examined(config).layers

    def has_experts(self, config: ModelConfig) -> bool:
        """Whether the model has tensors of experts, excluded or not."""
        return self.examined(config).has_experts

    def share(self, config: ModelConfig) -> float:
        """How much of the language model's matrix weights the layers hold."""
        return self.examined(config).share

    def positions(self, config: ModelConfig) -> int | None:
        """Most tokens of a row; `None` where the architecture has no limit."""
        return self.examined(config).positions

    def check_length(self, config: ModelConfig, max_length: int) -> None:
        """Check that the model has as many positions.

        Raises:
            UserError: it has fewer.
        """
        most = self.examined(config).positions
        if most is not None and max_length > most:
            raise UserError(
                f"data.max_length: given {max_length:,}, and model {config.name} has {most:,} "
                "positions (max_position_embeddings); what stands beyond them it never learned to "
                f"read. Allowed is 8 to {most:,}"
            )

    def examined(self, config: ModelConfig) -> Examined:
        """The base model's layers, and what of its weights they are."""
        settings = ("architecture", "lm_head", "exclude", "allow_uncovered")
        asked = {field: getattr(config, field) for field in settings}
        if not config.architecture:
            config = self._pinned(config)
            asked["files"] = self.model(config)
        name = f"{_LAYERS} by transformers {version('transformers')} {key_of(asked)}"
        entry = self._read().get(name)
        if entry is None:
            from ila_core.models.layers import examine

            entry = examine(config).model_dump(mode="json")
            self._write(name, entry)
        found = Examined.model_validate(entry)
        if 1 - found.share > UNCOVERED and name not in self._said:
            self._said.add(name)
            log.warning(
                "model %s: its %d layers hold %.1f %% of its matrix weights (allow_uncovered); "
                "neither ranked nor trained by a selection: %s",
                *(config.name, len(found.layers), 100 * found.share, found.outside),
            )
        return found

    def _local(self, name: str, files: Iterable[Path], compute: Callable[[], Any]) -> Any:
        stats = {str(f): [(s := f.stat()).st_size, s.st_mtime_ns, s.st_ino] for f in files}
        entry = self._read().get(name)
        trusted = not self._rehash or name in self._fresh
        if entry is not None and entry["stats"] == stats and trusted:
            return entry["value"]
        value = compute()
        self._fresh.add(name)
        self._write(name, {"stats": stats, "value": value})
        return value

    def _remote(self, name: str, look_up: Callable[[], Any], unknown: str) -> Any | Unknown:
        entry = self._read().get(name)
        if entry is not None:
            return entry
        if not self._online and not hub.is_offline():
            return Unknown(unknown)
        try:
            found = look_up()
        except UserError:
            if self._online:
                raise
            return Unknown(unknown)
        self._write(name, found)
        return found

    def _revision(self, what: str, given: str | None, look_up: Callable[[], str]) -> str | Unknown:
        if given is not None:
            return given
        return self._remote(
            _revision_of(what),
            look_up,
            f"the hub commit of {what} is not known: the profile leaves it null, and the first "
            "online run looks it up and locks it",
        )

    def _read(self) -> dict[str, Any]:
        try:
            return read_object(self._path)
        except FileNotFoundError:
            return {}
        except UserError as error:
            raise UserError(f"{error}; delete it, it is made anew") from error

    def _write(self, name: str, value: Any) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(self._path.with_suffix(".lock"), "what names resolve to"):
            entries = self._read() | {name: value}
            temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(entries, indent=1, sort_keys=True))
            temporary.replace(self._path)


def _revision_of(what: str) -> str:
    return f"revision of {what}"
