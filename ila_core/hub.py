"""The only place that talks to the hub: two questions, and errors that say what to do.

>>> folder = fetch("GAIR/lima", ["train.jsonl"], revision=None, kind="dataset")
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

from ila_core.errors import UserError, first_line

log = logging.getLogger("ila")

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""`org/name`."""
Kind = Literal["dataset", "model"]

_INSTEAD = {
    "dataset": "set the dataset's `source:` to a local copy",
    "model": "set the model profile's `source:` to a local folder",
}


def fetch(repo: str, patterns: Sequence[str], revision: str | None, *, kind: Kind) -> Path:
    """Download the files of `repo` that match `patterns` and return the folder they lie in.

    Offline, the hub's own local cache answers where it can.
    """
    from huggingface_hub import snapshot_download

    with explained(repo, revision, kind):
        return Path(
            snapshot_download(
                repo, repo_type=kind, revision=revision, allow_patterns=list(patterns)
            )
        )


def current_commit(repo: str, *, kind: Kind) -> str:
    """The commit that `repo`'s default branch is at now; where the hub is away, its cache's."""
    from huggingface_hub import HfApi, errors

    with explained(repo, None, kind):
        try:
            sha = HfApi().repo_info(repo, repo_type=kind).sha
        except errors.HfHubHTTPError:  # it answered
            raise
        except (_http_error(), ConnectionError) as error:
            folder = cached(repo, None, kind=kind)
            if folder is None:
                raise
            log.warning(
                "the hub is not reached (%s): %s %s is taken at commit %s, which is in its cache",
                *(first_line(error), kind, repo, folder.name),
            )
            return folder.name
    assert sha is not None, f"the hub gave no commit for {repo}"
    return sha


def cached(repo: str, revision: str | None, *, kind: Kind) -> Path | None:
    """The folder of a commit in the hub's local cache, named by the commit; its files may lack."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repo, repo_type=kind, revision=revision, allow_patterns=[], local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` leaves nothing but the local cache."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


@contextmanager
def explained(repo: str, revision: str | None, kind: Kind) -> Iterator[None]:
    """Turn what can go wrong between us and the hub into one message.

    Errors of this machine, such as a full disk, pass through as they are.
    """
    from huggingface_hub import errors

    what, instead = f"{kind} {repo}", _INSTEAD[kind]
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{what} is gated: accept its terms on its hub page, then set HF_TOKEN or run "
            f"`hf auth login`; or {instead}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{what} has no revision {revision!r}: give a commit of it, or null"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UserError(
            f"{what} does not exist on the hub, or is private: check the name, set HF_TOKEN or run "
            f"`hf auth login`; or {instead}"
        ) from error
    except (_http_error(), ConnectionError, errors.EntryNotFoundError) as error:
        raise UserError(
            f"{what} could not be had from the hub ({first_line(error)}): check the network, "
            f"HF_ENDPOINT and HF_HUB_OFFLINE; or {instead}"
        ) from error


def _http_error() -> type[Exception]:
    """The error of the HTTP library that this huggingface_hub uses: httpx and httpx2 are seen."""
    from huggingface_hub import errors

    return cast("type[Exception]", errors.HfHubHTTPError.__bases__[0])
