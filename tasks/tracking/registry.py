"""The registry of published rankings: registered models `layer-ranking.<name>` in MLflow.

A version's source is the payload of the `ranking` step's run, so that MLflow alone can read it,
without ILA:

    mlflow.artifacts.load_dict("models:/layer-ranking.stories3m@champion/ranking.json")

Two processes that publish the same ranking at once get one version: both may create one, and the
later deletes its own. Two that publish different rankings under one alias get a version each, and
the alias points to the last: MLflow moves it in one call.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ila_core.config import RuntimeConfig
from ila_core.errors import CheckError, UserError, listed, unknown_name
from ila_core.search.ranking import DOCUMENT, MOST_BYTES, Ranking
from ila_core.search.ranking_reference import Published, check_alias, check_name
from tasks.cache.mlflow_lookup import step_run
from tasks.cache.payloads import PAYLOAD, fetch
from tasks.cache.step_run import StepRun
from tasks.tracking.client import all_pages, open_client, translate_mlflow_errors
from tasks.tracking.ranking_version import PREFIX, Version, is_retired, read_version

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

MOST_CARD = 5000  # characters, which MLflow's table takes as a version's description


class Registry:
    """Publishes, finds, reads and retires rankings.

    Raises:
        ConnectionError: when MLflow cannot be reached or answers with an error.
    """

    def __init__(self, runtime: RuntimeConfig) -> None:
        self._uri, self._home = runtime.tracking_uri, runtime.home
        self._client = open_client(runtime.tracking_uri)

    def publish(self, run: StepRun, ranking: Ranking, name: str, card: str) -> Version:
        """Return the version of `name` that is `ranking`; create it if there is none yet.

        Args:
            run: the finished step whose payload is the ranking.
            ranking: the ranking, as read and checked by `document`.
            card: the ranking's card in Markdown, shown on MLflow's page of the version.

        Raises:
            UserError: when the name is invalid or belongs to another architecture.
            CheckError: when this ranking was retired under this name.
        """
        check_name(name)
        if len(card) > MOST_CARD:
            card = f"{card[: MOST_CARD - 80]}\n\n... the rest: `ila rankings show key:{run.key}`\n"
        with translate_mlflow_errors(self._uri):
            self._make_model(name, ranking)
            mine = None
            if not (same := self._with_digest(name, ranking.digest)):
                mine = self._client.create_model_version(
                    PREFIX + name,
                    source=f"runs:/{run.run_id}/{PAYLOAD}",
                    run_id=run.run_id,
                    tags=_tags(run, ranking),
                    description=card,
                    await_creation_for=0,
                )
                same = self._with_digest(name, ranking.digest)
            first = same[0]
            if mine is not None and int(mine.version) != first.number:
                self._client.delete_model_version(PREFIX + name, str(mine.version))
            if first.retired is not None:
                raise CheckError(is_retired(first, first.reference, None))
            if first.card != card:
                self._client.update_model_version(PREFIX + name, str(first.number), card)
            return self._version(name, first.number)

    def point(self, name: str, alias: str, number: int) -> str | None:
        """Move `alias` to a version; return the version it pointed to before, or `None`."""
        from mlflow.exceptions import MlflowException

        check_alias(alias)
        with translate_mlflow_errors(self._uri):
            before = self._model(name).aliases.get(alias)
            try:
                self._client.set_registered_model_alias(PREFIX + name, alias, str(number))
            except MlflowException as error:
                # Two that make an alias at once both insert its row, which the database refuses
                # the second (MLflow 3.17; 17 of 100 calls by four on SQLite); it is there now.
                if error.error_code != "BAD_REQUEST":
                    raise
                self._client.set_registered_model_alias(PREFIX + name, alias, str(number))
        return None if before is None else f"{name}/{before}"

    def find(self, wanted: Published, *, retired: bool = False) -> Version:
        """Find the version that a reference names.

        Args:
            wanted: the reference, by alias or number.
            retired: whether to accept a retired version.

        Raises:
            UserError: when there is no such name, alias or version; the message suggests others.
            CheckError: when it was retired.
        """
        from mlflow.exceptions import MlflowException

        with translate_mlflow_errors(self._uri):
            try:
                if wanted.alias is not None:
                    found = read_version(
                        self._client.get_model_version_by_alias(PREFIX + wanted.name, wanted.alias)
                    )
                else:
                    found = self._version(wanted.name, int(wanted.version or 0))
            except MlflowException as error:
                raise self._unknown(wanted, error) from error
            if found.retired is not None and not retired:
                asked = f"{wanted.name}@{wanted.alias}" if wanted.alias else found.reference
                others = [v for v in self.versions(wanted.name) if v.retired is None]
                raise CheckError(is_retired(found, asked, others[-1] if others else None))
        return found

    def run(self, version: Version) -> StepRun:
        """Return the run of the step whose payload is the version."""
        with translate_mlflow_errors(self._uri):
            return step_run(self._client.get_run(version.run_id))

    def read(self, version: Version) -> Ranking:
        """Read a version's document and check it against its published digest.

        The first call downloads it to `home/rankings/<digest>.json`; later ones send no request.

        Raises:
            CheckError: when the stored document is damaged or differs; its run is quarantined.
        """
        kept = self._home / "rankings" / f"{version.digest}.json"
        if kept.exists():
            try:
                return _published(version, kept)
            except (CheckError, UserError):
                kept.unlink()  # a copy that was damaged here says nothing about what is stored
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as arriving:
            try:
                with translate_mlflow_errors(self._uri):
                    payload = self._payload(self.run(version))
                    _check_size(payload, version.run_id)
                    got = payload.download_artifacts(DOCUMENT, arriving)
                ranking = _published(version, Path(got))
            except (CheckError, UserError) as error:
                raise self._quarantined(version.run_id, version.reference, error) from error
            Path(got).replace(kept)
        return ranking

    def versions(self, name: str | None = None) -> list[Version]:
        """Return all versions of a name, or of all names, in order, including retired ones."""
        wanted = f"name = '{PREFIX}{name}'" if name else f"name LIKE '{PREFIX}%'"
        with translate_mlflow_errors(self._uri):
            aliases = {m.name: m.aliases for m in self._models(wanted)}
            versions = all_pages(partial(self._client.search_model_versions, wanted))
            found = [read_version(mv, aliases.get(mv.name, {})) for mv in versions]
        return sorted(found, key=lambda v: (v.name, v.number))

    def retire(self, version: Version, reason: str) -> None:
        """Mark a version as retired, so that no reference resolves to it any more.

        Raises:
            UserError: when an alias still points to it.
        """
        if version.aliases:
            raise UserError(
                f"{version.reference} is what {' and '.join(version.aliases)} points at: move the "
                f"alias first (`ila rankings publish REF --name {version.name} --alias "
                f"{version.aliases[0]}`), or take it away with --drop-alias"
            )
        with translate_mlflow_errors(self._uri):
            self._client.set_model_version_tag(
                PREFIX + version.name, str(version.number), "ila.retired", reason
            )

    def drop(self, version: Version) -> Version:
        """Delete the version's aliases, and return it without them."""
        with translate_mlflow_errors(self._uri):
            for alias in version.aliases:
                self._client.delete_registered_model_alias(PREFIX + version.name, alias)
            return self._version(version.name, version.number)

    def document(self, run: StepRun, what: str) -> Ranking:
        """Read the ranking in the payload of `run` and check its digest and fingerprint.

        Args:
            what: what a message calls the ranking.

        Raises:
            CheckError: when it is damaged; the run is then quarantined.
        """
        try:
            with translate_mlflow_errors(self._uri):
                _check_size(self._payload(run), run.run_id)
            ranking = Ranking.load(fetch(run, self._home, self._client) / DOCUMENT)
            ranking.check()
        except (CheckError, UserError) as error:
            raise self._quarantined(run.run_id, what, error) from error
        return ranking

    def _payload(self, run: StepRun) -> ArtifactRepository:
        """Open a payload's repository, which needs half the requests of MLflow's client."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(f"{run.artifact_uri}/{PAYLOAD}", tracking_uri=self._uri)

    def _quarantined(self, run_id: str, what: str, error: Exception) -> CheckError:
        """Quarantine the run, which is then no cache hit either; return the error to raise."""
        from mlflow.exceptions import MlflowException

        done = f"Run {run_id} is quarantined: it is no hit any more."
        try:
            self._client.set_tag(run_id, "ila.state", "quarantined")
        except MlflowException as refused:
            done = f"Run {run_id} cannot be quarantined ({refused.error_code}): tell a publisher."
        return CheckError(f"{what} cannot be used: {error}\n{done}")

    def _make_model(self, name: str, ranking: Ranking) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(
                PREFIX + name,
                tags={"ila.architecture": ranking.architecture},
                description=f"Which linear layers of {ranking.base_model} matter for alignment",
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            known = self._model(name).tags.get("ila.architecture")
            if known is None:  # reserved for whoever publishes first (`ila servers reserve`)
                self._client.set_registered_model_tag(
                    PREFIX + name, "ila.architecture", ranking.architecture
                )
            elif known != ranking.architecture:
                raise UserError(
                    f"{name!r} names rankings of another architecture ({known}, and this is "
                    f"{ranking.architecture}, of {ranking.base_model}); publish it under a name of "
                    "its own"
                ) from error

    def _with_digest(self, name: str, digest: str) -> list[Version]:
        """Return the versions of `name` with this digest, oldest first."""
        found = self._client.search_model_versions(
            f"name = '{PREFIX}{name}' and tags.`ila.digest` = '{digest}'"
        )
        return sorted(map(read_version, found), key=lambda v: v.number)

    def _version(self, name: str, number: int) -> Version:
        return read_version(self._client.get_model_version(PREFIX + name, str(number)))

    def _model(self, name: str) -> RegisteredModel:
        return self._client.get_registered_model(PREFIX + name)

    def _models(self, wanted: str) -> list[RegisteredModel]:
        return all_pages(partial(self._client.search_registered_models, wanted))

    def _unknown(self, wanted: Published, error: Exception) -> Exception:
        """Return the error for a reference unknown to MLflow, or MLflow's own error."""
        names = [m.name.removeprefix(PREFIX) for m in self._models(f"name LIKE '{PREFIX}%'")]
        if wanted.name not in names:
            if not names:
                return UserError(
                    f"no ranking called {wanted.name!r}: none is published here yet; publish one "
                    f"with `ila rankings publish key:<12 hex> --name {wanted.name}`"
                )
            return unknown_name("published ranking", wanted.name, names)
        if wanted.alias is not None:
            aliases = self._model(wanted.name).aliases
            if wanted.alias in aliases:
                return error
            if not aliases:
                newest = self.versions(wanted.name)[-1:]
                return UserError(
                    f"{wanted.name!r} has no alias; its newest version is "
                    f"{newest[0].reference if newest else 'gone'}"
                )
            return unknown_name(f"alias of {wanted.name},", wanted.alias, aliases)
        numbers = [v.number for v in self.versions(wanted.name)]
        if wanted.version in numbers:
            return error
        return UserError(
            f"{wanted.name!r} has no version {wanted.version}; it has "
            f"{listed([str(n) for n in reversed(numbers)]) or 'none'}"
        )


def _tags(run: StepRun, ranking: Ranking) -> dict[str, str]:
    return {
        "ila.digest": ranking.digest,
        "ila.key": run.key,
        "ila.step": run.tags["ila.step"],
        "ila.base_model": ranking.base_model,
        "ila.architecture": ranking.architecture,
        "ila.scorer": ranking.scorer,
        "ila.datasets": ", ".join(ranking.datasets)[:MOST_CARD],
    }


def _check_size(payload: ArtifactRepository, run_id: str) -> None:
    size = sum(file.file_size or 0 for file in payload.list_artifacts())
    if size > MOST_BYTES:
        raise CheckError(
            f"the payload of run {run_id} has {size:,} bytes, and a ranking at most {MOST_BYTES:,}"
        )


def _published(version: Version, file: Path) -> Ranking:
    """Read the ranking in `file` and check that it is the published one."""
    ranking = Ranking.load(file)
    ranking.check()
    if ranking.digest != version.digest:
        raise CheckError(
            f"it was published with the digest {version.digest[:12]}, and what is stored has "
            f"{ranking.digest[:12]}: one of the two was changed since; publish the ranking anew"
        )
    return ranking
