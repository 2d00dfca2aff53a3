"""Files that are whole or not there: everything but append-only records is written this way."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
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


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file that is called ``what`` in the ``UserError`` for a missing or damaged one."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: no {what} there ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: is not a readable {what} ({error}); make it again") from error
