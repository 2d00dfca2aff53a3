"""Where a PEFT adapter is: a local folder, or a repository of the hub, of which its files are downloaded. No torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dpc.errors import UserError
from dpc.hub import Repository, hub_or_cache

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_WEIGHTS_FILE = "adapter_model.bin"

# owner/name of the hub, and a folder in it: owner/name/folder.
_HUB_ID = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:/(?P<folder>.+?))?/?")
_MADE_BY = "made by `dpc tune` or PEFT"


def adapter_folder(name: str | Path, label: str) -> Path:
    """The local folder of an adapter; the files of one on the hub are downloaded, or taken from the hub's cache.

    name: a local folder, a hub id ``owner/name``, or a folder in its repository, ``owner/name/folder``. label: how
    messages name the adapter, such as ``--prompt runs/demo/prompt``.
    Raises ``UserError`` if it is neither, or if the folder has no adapter_config.json.
    """
    folder = Path(name).expanduser()
    if folder.is_file():
        raise UserError(f"{label}: is a file; expected the folder of a PEFT adapter, {_MADE_BY}")
    if not folder.is_dir():
        found = _HUB_ID.fullmatch(str(name))
        if found is None:
            raise UserError(f"{label}: no such folder; expected a PEFT adapter, {_MADE_BY}")
        folder = _downloaded(found["repository"], found["folder"], label)
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"{label}: has no {CONFIG_FILE}{_elsewhere(folder)}")
    return folder


def _elsewhere(folder: Path) -> str:
    """Where in ``folder`` there are adapters: several in one folder, or the prompt of a run."""
    found = sorted({path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{CONFIG_FILE}")})
    if not found:
        return f"; expected the folder of a PEFT adapter, {_MADE_BY}"
    names = ", ".join(str(path.relative_to(folder)) for path in found[:5]) + (", ..." if len(found) > 5 else "")
    return f", but has adapters in {names}; give one of these folders"


def _downloaded(repository: str, folder: str | None, label: str) -> Path:
    from huggingface_hub import snapshot_download

    inside = f"{folder}/" if folder else ""
    # Every adapter_config.json, so that an error can say where in the repository adapters are.
    wanted = [f"*{CONFIG_FILE}", f"{inside}{WEIGHTS_FILE}", f"{inside}{PICKLED_WEIGHTS_FILE}", f"{inside}*.json"]
    asked = Repository(label, repository, file=f"{inside}{CONFIG_FILE}", instead="give the local folder of an adapter")
    try:
        with hub_or_cache(asked):
            root = snapshot_download(repository, allow_patterns=wanted, ignore_patterns=["*token*", "*vocab*"])
    # Of many types: no such repository, no permission, no network, a name that the hub does not allow.
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:160]
        raise UserError(
            f"{label}: no such folder, and not to be had from the Hugging Face hub as {repository} ({reason}); "
            f"expected a PEFT adapter, {_MADE_BY}"
        ) from error
    found = Path(root) / inside
    if not found.is_dir():
        raise UserError(f"{label}: the repository {repository} has no folder {folder} with a {CONFIG_FILE}")
    return found


def read_adapter_json(folder: Path, name: str, label: str) -> dict[str, Any]:
    """The JSON object in a file of an adapter. Raises ``UserError`` if the file is missing or holds something else."""
    try:
        value = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        raise missing_file(name, label) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{label}: {name} is not readable JSON ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise UserError(f"{label}: {name} holds a {type(value).__name__}, expected an object")
    return value


def missing_file(name: str, label: str) -> UserError:
    """The error for an adapter without one of its files."""
    return UserError(f"{label}: has no {name}; expected a directory in which `dpc tune` or PEFT has finished")
