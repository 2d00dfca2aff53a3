"""The HTTP server of the lab: one page, and one function that answers its requests with JSON.

It listens on the loopback interface. Host and Origin headers are checked against DNS rebinding and cross-site
requests, and every request carries a token that is new for each start.
"""

from __future__ import annotations

import json
import os
import secrets
import socketserver
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dpc.errors import UserError

HOST, TOKEN_HEADER, ASK = "127.0.0.1", "X-DPC-Token", "/ask"
# Bytes of a question with its numbers; seconds that a client may take to send them; questions that may wait.
_LARGEST, _PATIENCE, _WAITING = 2**16, 10.0, 8
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# The page names its own script and style in a policy of its own; this one says what only a header can.
_PAGE_POLICY = "frame-ancestors 'none'; object-src 'none'; base-uri 'none'; form-action 'none'"
_JSON_POLICY = "default-src 'none'; frame-ancestors 'none'"

Answer = Callable[[Any], dict[str, Any]]
"""``answer(what was asked) -> JSON``, one at a time. Raises ``UserError`` for what it can't answer."""


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class PageServer(ThreadingHTTPServer):
    """Serves ``page(token)`` at ``/`` and ``answer`` at ``/ask``; ``port`` 0 takes any that is free.

    Raises ``UserError`` where the port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, port: int, page: Callable[[str], bytes], answer: Answer) -> None:
        self.token = secrets.token_urlsafe(24)
        self.page, self.answer = page(self.token), answer
        self.turn, self.waiting = threading.Lock(), threading.BoundedSemaphore(_WAITING)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"--port {port}: {reason}; choose another, or 0 for any that is free") from error

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    @property
    def hosts(self) -> set[str]:
        """What a browser calls this server."""
        return {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    def server_bind(self) -> None:
        """Take the port, without asking a name server for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A closed connection is no error. Any other error is printed in one line, and the server goes on."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "dpc", ""
    timeout = _PATIENCE

    def do_GET(self) -> None:
        """The page."""
        try:
            self._check_host()
            if self.path != "/":
                raise _Refused(HTTPStatus.NOT_FOUND, "there is one page here, at /")
        except _Refused as refused:
            self._say(refused.status, str(refused))
        else:
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page, _PAGE_POLICY)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """One question."""
        try:
            asked = self._read()
        except _Refused as refused:
            self._say(refused.status, str(refused))
            return
        if not self.server.waiting.acquire(blocking=False):
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, "too many questions at once; ask again in a moment")
            return
        try:
            with self.server.turn:
                status, answer = _answered(self.server.answer, asked)
        finally:
            self.server.waiting.release()
        self._send_json(status, answer)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses: methods, and lines that are no HTTP."""
        self._say(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is logged: questions are the user's own."""

    def version_string(self) -> str:
        """What the answer says it comes from, without the version of anything."""
        return self.server_version

    def _check_host(self) -> None:
        # A name that some site lets point here would make this page one of that site's.
        if self.headers.get_all("Host") not in [[host] for host in self.server.hosts]:
            raise _Refused(HTTPStatus.FORBIDDEN, "this server answers to its own address alone")

    def _read(self) -> Any:
        self._check_host()
        if self.path != ASK:
            raise _Refused(HTTPStatus.NOT_FOUND, f"questions go to {ASK}")
        origins = self.headers.get_all("Origin") or []
        if any(origin not in {f"http://{host}" for host in self.server.hosts} for origin in origins):
            raise _Refused(HTTPStatus.FORBIDDEN, "another site may not ask here")
        given = self.headers.get(TOKEN_HEADER, "").encode("utf-8", "replace")
        if not secrets.compare_digest(given, self.server.token.encode()):
            raise _Refused(HTTPStatus.FORBIDDEN, "this page is from an earlier start of the server; load it again")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or self.headers.get("Transfer-Encoding"):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if len(length) > len(str(_LARGEST)) or int(length) > _LARGEST:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a question has at most {_LARGEST} bytes")
        try:
            return json.loads(self.rfile.read(int(length)).decode("utf-8"))
        except TimeoutError as error:
            raise _Refused(HTTPStatus.REQUEST_TIMEOUT, "the question did not come") from error
        except (ValueError, RecursionError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, "expected JSON in UTF-8") from error

    def _say(self, status: HTTPStatus, message: str) -> None:
        self._send_json(status, {"error": " ".join(message.split())})

    def _send_json(self, status: HTTPStatus, value: dict[str, Any]) -> None:
        body = json.dumps(value, allow_nan=False).encode()
        self._send(status, "application/json", body, _JSON_POLICY)

    def _send(self, status: HTTPStatus, kind: str, body: bytes, policy: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Security-Policy": policy, "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _answered(answer: Answer, asked: Any) -> tuple[HTTPStatus, dict[str, Any]]:
    try:
        return HTTPStatus.OK, answer(asked)
    except UserError as error:
        return HTTPStatus.UNPROCESSABLE_ENTITY, {"error": " ".join(str(error).split())}
    except Exception as error:  # whatever a question does, the next one is answered
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            return HTTPStatus.INSUFFICIENT_STORAGE, {"error": "out of memory; ask a shorter question"}
        print(f"error: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}; the terminal says more"}


def serve(server: PageServer) -> None:
    """Serve until Ctrl-C; the answer that is under way then is finished first, unless Ctrl-C is pressed again."""
    try:
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.2)
        server.server_close()
        # Kept: a thread that computes while the interpreter ends would abort it.
        server.turn.acquire()
    except KeyboardInterrupt:
        os._exit(130)
