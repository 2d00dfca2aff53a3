"""One writer per run directory: a lock that the kernel releases when its process ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from dpc.errors import UserError

LOCK_FILE = ".lock"
# Open lock files, and how often each is entered. A lock belongs to the process, so this is one table for all.
_held: dict[Path, tuple[BinaryIO, int]] = {}
_table = Lock()


@contextmanager
def directory_lock(directory: Path, command: str) -> Iterator[None]:
    """Hold the lock of ``directory``, which is made if it is not there, until the block ends or the process is killed.

    A process that holds the lock may enter again. The lock file stays and does no harm; while the lock is held it says
    who holds it: process id, host and ``command``. Where the file system has no locks, a warning is given instead.
    Raises ``UserError`` where another process holds the lock, or the directory cannot be written.
    """
    place = directory.resolve()
    with _table:
        file, times = _held[place] if place in _held else (_acquire(place, directory, command), 0)
        _held[place] = file, times + 1
    try:
        yield
    finally:
        with _table:
            file, times = _held.pop(place)
            if times > 1:
                _held[place] = file, times - 1
            else:
                file.truncate(0)
                file.close()


def _acquire(place: Path, directory: Path, command: str) -> BinaryIO:
    try:
        place.mkdir(parents=True, exist_ok=True)
        # Not truncated on opening: another process may hold the lock.
        file = os.fdopen(os.open(place / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
    except OSError as error:
        raise UserError(
            f"{directory}: cannot be written ({error.strerror}); choose another --output, or change its permissions"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _holder(file)
        file.close()
        raise UserError(
            f"{directory}: {holder} is writing it; wait until that ends, or choose another --output"
        ) from error
    except OSError as error:
        warnings.warn(
            f"{directory}: its file system has no locks ({error.strerror}); do not write it from two processes",
            stacklevel=4,
        )
    about = {"pid": os.getpid(), "host": socket.gethostname(), "command": command or " ".join(sys.argv)}
    # On a full disk the lock holds all the same.
    with suppress(OSError):
        file.truncate(0)
        file.write((json.dumps(about) + "\n").encode())
    return file


def _holder(file: BinaryIO) -> str:
    """Who holds the lock, in words."""
    file.seek(0)
    try:
        about = json.loads(file.read())
        return f"process {about['pid']} on {about['host']} ({about['command']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
