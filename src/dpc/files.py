"""Files: written atomically, read as JSON, or loaded as Python with one clear error line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
from typing import Any

from dpc.errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new one, whole, whatever happens in between.

    Raises ``UserError`` where it cannot be written (no space, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write '{path}' ({error.strerror}): make room there or choose another place") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value as readable text, atomically."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def load_from_file(path: Path, attribute: str, option: str, guide: str) -> Any:
    """What the Python file ``path`` calls ``attribute``. option: what named the file; guide: the document to read.

    Raises ``UserError`` for a file that is not there, does not run, or has no such name.
    """
    name = f"dpc_file_{path.stem}"
    spec = spec_from_file_location(name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise UserError(f"{option} {path}: no such file; expected a Python file with {attribute}, as {guide} shows")
    module = module_from_spec(spec)
    sys.modules[name] = module  # as import does it: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    # Whatever a user's file raises is a mistake in that file.
    except (Exception, SystemExit) as error:
        here = [f.lineno for f in extract_tb(error.__traceback__) if Path(f.filename).resolve() == path.resolve()]
        line = here[-1] if here else None
        at = getattr(error, "lineno", None) or line or 1
        raise UserError(f"{path}:{at}: does not run ({type(error).__name__}: {error}); mend the file") from error
    if not hasattr(module, attribute):
        raise UserError(f"{path}: has no {attribute}; end the file with {attribute} = ..., as {guide} shows")
    return getattr(module, attribute)


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file that is called ``what`` in the ``UserError`` for a missing or damaged one."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: no {what} there ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: is not a readable {what} ({error}); make it again") from error


# Files that belong to an adapter or a run, by name or ending.
_MADE_BY_DPC = ("adapter_config.json", "run.json", "results.json", "dpc.json", "examples.jsonl", "vocabulary.json")
_WEIGHTS = (".safetensors", ".bin", ".gguf")


def check_output(path: Path, option: str, inputs: Sequence[Path | None] = ()) -> None:
    """Raise ``UserError`` where ``path`` should not be written: an input of the same command, or no plain file.

    option: what named the path. Also refused: a file that belongs to an adapter, a model or a run.
    """
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder; expected the name of a file to write")
    if path.exists() and not path.is_file():
        raise UserError(f"{option} {path}: is no plain file; expected the name of a file to write")
    for given in inputs:
        if given is not None and path.exists() and given.exists() and path.samefile(given):
            raise UserError(f"{option} {path}: is an input of this command, which would be lost; choose another name")
    if path.exists() and (path.name in _MADE_BY_DPC or path.suffix in _WEIGHTS):
        raise UserError(f"{option} {path}: belongs to an adapter, a model or a run; choose another name")
