"""A hub on the loopback interface: one repository that is there, and owners whose repositories answer in other ways."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Owner of a repository: the status, and the code that the hub puts into a header.
REFUSALS = {
    "gone": (404, "RepoNotFound"),
    "private": (401, ""),
    "gated": (403, "GatedRepo"),
    "forbidden": (403, ""),
    "broken": (503, ""),
}


class Hub(BaseHTTPRequestHandler):
    """Serves ``folder`` as ``here/model`` and as the data set ``here/rows``."""

    folder: ClassVar[Path]
    asked: ClassVar[list[str]]

    def do_HEAD(self) -> None:
        if "/resolve/" in self.path:
            self.asked.append(self.path)
        place, _, rest = self.path.removeprefix("/datasets").partition("/resolve/")
        revision, _, name = rest.partition("/")
        owner, path = place.split("/")[1], self.folder / name
        if owner == "api":
            self._answer(404, "EntryNotFound")
        elif owner in REFUSALS:
            self._answer(*REFUSALS[owner])
        elif revision not in ("main", COMMIT):
            self._answer(404, "RevisionNotFound")
        elif not name or not path.is_file():
            self._answer(404, "EntryNotFound")
        else:
            content = path.read_bytes()
            self._answer(200, "", content)

    do_GET = do_HEAD

    def _answer(self, status: int, code: str, content: bytes = b"") -> None:
        self.send_response(status)
        headers = {"X-Error-Code": code} if code else {}
        if status == 200 or code == "EntryNotFound":
            headers |= {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def loopback_hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The hub's address, and the paths that it was asked for."""
    asked: list[str] = []
    handler = type("Handler", (Hub,), {"folder": folder, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def black_hole() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def cached_model(folder: Path, cache: Path, repository: str = "here/model") -> Path:
    """The files of ``folder`` in a hub cache, as a download leaves them; returns the snapshot."""
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    for path in folder.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    return snapshot
