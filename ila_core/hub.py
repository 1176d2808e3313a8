"""The only place that talks to the hub: two questions, and errors that say what to do.

>>> folder = fetch("GAIR/lima", ["train.jsonl"], revision=None, kind="dataset")
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

from ila_core.errors import UserError, first_line

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
    """The commit that `repo`'s default branch is at now."""
    from huggingface_hub import HfApi

    with explained(repo, None, kind):
        sha = HfApi().repo_info(repo, repo_type=kind).sha
    assert sha is not None, f"the hub gave no commit for {repo}"
    return sha


@contextmanager
def explained(repo: str, revision: str | None, kind: Kind) -> Iterator[None]:
    """Turn what can go wrong between us and the hub into one message.

    Errors of this machine, such as a full disk, pass through as they are.
    """
    from huggingface_hub import errors

    # Of whichever HTTP library this version of huggingface_hub uses: httpx and httpx2 are seen.
    http_error = cast("type[Exception]", errors.HfHubHTTPError.__bases__[0])
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
    except (http_error, ConnectionError, errors.EntryNotFoundError) as error:
        raise UserError(
            f"{what} could not be had from the hub ({first_line(error)}): check the network, "
            f"HF_ENDPOINT and HF_HUB_OFFLINE; or {instead}"
        ) from error
