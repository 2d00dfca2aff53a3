"""The Hugging Face hub: asked once and briefly whether it has a repository; where it can't be reached, its cache."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import Any, Literal

from dpc.errors import UserError

# A hub that takes longer to answer counts as one that can't be reached. HF_HUB_ETAG_TIMEOUT, where it is set, wins.
ANSWER_SECONDS = 3.0
# After this time the hub is asked again.
_REMEMBERED_SECONDS = 60.0
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True, slots=True)
class Repository:
    """What a user asked for by a hub id.

    named: as errors begin, such as ``--model owner/name``. file: the hub is asked for the headers of this one. instead:
    what may be given where there is no hub.
    """

    named: str
    id: str
    kind: Literal["model", "dataset"] = "model"
    revision: str | None = None
    file: str = "config.json"
    instead: str = "give a local folder"


@dataclass(frozen=True, slots=True)
class Absence:
    """Why the hub does not give a repository: it refuses to, or (not ``refused``) it does not answer."""

    refused: bool
    why: str

    def error(self, repository: Repository, cache: str) -> UserError:
        """The error where the cache does not help; ``cache`` says so."""
        if self.refused:
            return UserError(f"{repository.named}: {self.why}")
        kind = " --repo-type dataset" * (repository.kind == "dataset")
        revision = f" --revision {repository.revision}" if repository.revision else ""
        return UserError(
            f"{repository.named}: {cache}, and {self.why}; run `hf download {repository.id}{kind}{revision}` where "
            "there is a network and use its cache here (HF_HOME names it, HF_HUB_OFFLINE=1 reads it without a "
            f"request), or {repository.instead}"
        )


def model_repository(model: str, revision: str | None = None) -> Repository | None:
    """The repository of a model, owner/name or owner/name:FILE.gguf; None for ``zoo``, a path, or a local folder."""
    name, _, file = model.partition(":")
    local = model == "zoo" or model.startswith(("/", "./", "../", "~")) or Path(model).exists()
    if local or (not file and name.lower().endswith(".gguf")):
        return None
    return Repository(f"--model {model}", name, revision=revision, file=file or "config.json")


@contextmanager
def hub_or_cache(repository: Repository | None) -> Iterator[bool]:
    """Inside, Hugging Face's libraries load ``repository``; where the hub does not give it, without any request.

    Gives whether the cache is all there is. A hub that answers is used as these libraries use it. None is for what is
    loaded from a local folder: nothing is asked.
    Raises ``UserError`` as ``check_repository`` does, and where the cache does not hold all that is needed.
    """
    absence = None if repository is None else check_repository(repository)
    if repository is None or absence is None:
        yield False
        return
    try:
        with _without_requests():
            yield True
    # What these libraries raise where a part of a repository is in the cache.
    except (OSError, ValueError, ImportError) as error:
        if "trust_remote_code" in str(error):
            raise
        cache, missing = f"the cache {cache_directories(repository.kind)}", isinstance(error, ConnectionError)
        why = f"is not in {cache}" if missing else f"can't be loaded from {cache} ({_first_line(error)[:160]})"
        raise absence.error(repository, why) from error


def check_repository(repository: Repository) -> Absence | None:
    """None where the hub has the repository; else why only its copy in the cache can be used.

    The hub is asked for the headers of one file, at most once a minute, through the proxy and at the ``HF_ENDPOINT``
    that are set. Nothing is asked where ``HF_HUB_OFFLINE`` is set. Loads no torch.
    Raises ``UserError`` for an id that can't be one, and where the hub does not give what is not in the cache.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.errors import HFValidationError

    try:
        hf_hub_url(repository.id, repository.file)
    except HFValidationError:
        raise UserError(
            f"{repository.named}: no such folder is there, and a hub id is owner/name; {repository.instead}"
        ) from None
    if constants.HF_HUB_OFFLINE:
        absence: Absence | None = Absence(False, "HF_HUB_OFFLINE is set, so the hub is not asked")
    else:
        absence = _ask(repository, constants.ENDPOINT, int(time.monotonic() // _REMEMBERED_SECONDS))
    if absence is not None and not _is_cached(repository):
        raise absence.error(repository, f"is not in the cache {cache_directories(repository.kind)}")
    return absence


def cache_directories(kind: Literal["model", "dataset"]) -> str:
    """Where copies of repositories are looked for."""
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE if kind == "model" else f"{constants.HF_HUB_CACHE} or {_prepared_rows()}"


def _prepared_rows() -> Path:
    """Where the library datasets keeps the rows that it loaded once. It takes a second to import."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_DATASETS_CACHE") or os.path.join(constants.HF_HOME, "datasets"))


def _is_cached(repository: Repository) -> bool:
    from huggingface_hub import constants

    def plain(name: str) -> str:
        return name.lower().replace("_", "").replace("/", "")

    # Of any revision, and maybe not whole: loading says more.
    folder = f"{repository.kind}s--{repository.id.replace('/', '--')}"
    if os.path.isdir(os.path.join(constants.HF_HUB_CACHE, folder, "snapshots")):
        return True
    rows = _prepared_rows()
    kept = rows.iterdir() if repository.kind == "dataset" and rows.is_dir() else ()
    return any(plain(path.name) == plain(repository.id) for path in kept)


@lru_cache(maxsize=64)
def _ask(repository: Repository, endpoint: str, minute: int) -> Absence | None:
    """What the hub answers. In a thread, because no time limit of a request covers the look-up of a host's name."""
    seconds = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or ANSWER_SECONDS)
    silent = f"does not answer within {seconds:g} s (HF_HUB_ETAG_TIMEOUT=N allows N s)"
    answers: list[str | Absence | None] = []
    asking = Thread(target=lambda: answers.append(_answer(repository, endpoint, seconds)), daemon=True)
    asking.start()
    asking.join(seconds)
    answer = answers[0] if answers else silent
    return Absence(False, f"{endpoint} {answer}") if isinstance(answer, str) else answer


def _answer(repository: Repository, endpoint: str, seconds: float) -> str | Absence | None:
    """None where the repository is there, a refusal, or in words why the hub can't be used."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    kind = "data set" if repository.kind == "dataset" else "model"
    try:
        where = {"repo_type": repository.kind, "revision": repository.revision}
        url = hf_hub_url(repository.id, repository.file, **where)
        # Longer than the thread is waited for, which alone decides.
        found = get_hf_file_metadata(url, timeout=2 * seconds, retry_on_errors=False)
        return None if found.commit_hash else "does not answer as a hub does"
    except errors.RemoteEntryNotFoundError:
        return None
    except errors.RevisionNotFoundError:
        return Absence(True, f"{endpoint} has this {kind}, but no revision {repository.revision}; check --revision")
    except errors.GatedRepoError:
        page = f"{endpoint}/{'datasets/' * (repository.kind == 'dataset')}{repository.id}"
        return Absence(True, f"may be read only by those who were granted access; ask for it at {page}, then {_LOG_IN}")
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        # The hub answers 401 for a repository that is not there, too.
        if status == 401 or isinstance(error, errors.RepositoryNotFoundError):
            here = f"no such folder here, and no such {kind} on {endpoint}"
            return Absence(True, f"{here}; check the name, or, if it is private, {_LOG_IN}")
        if status == 403:
            return Absence(True, f"{endpoint} refuses access (HTTP 403); {_LOG_IN}, with a token that may read it")
        return f"answers with an error (HTTP {status})"
    # Of name look-up, proxy, connection, certificates: a dozen unrelated types.
    except Exception as error:
        return f"can't be reached ({_first_line(error)[:100]})"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _without_requests() -> Iterator[None]:
    """Hugging Face's libraries as ``HF_HUB_OFFLINE=1`` makes them: they read their caches and send no request."""
    from huggingface_hub import constants

    # datasets keeps a copy of its own.
    modules: list[Any] = [constants, sys.modules.get("datasets.config")]
    before = [(module, module.HF_HUB_OFFLINE) for module in modules if module is not None]
    for module, _ in before:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in before:
            module.HF_HUB_OFFLINE = value
