"""The lab's server: it answers its own page, nobody else, and goes on whatever it is sent."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from dpc.cli.server import HOST, TOKEN_HEADER, PageServer, serve
from dpc.errors import UserError

Reply = tuple[int, dict[str, str], Any]


def echo(asked: Any) -> dict[str, Any]:
    match asked:
        case {"raise": "user"}:
            raise UserError("what a user\ncan mend")
        case {"raise": "memory"}:
            raise RuntimeError("CUDA out of memory")
        case {"raise": "bug"}:
            raise KeyError("secret path")
    return {"asked": asked}


@contextmanager
def serving(answer: Callable[[Any], dict[str, Any]]) -> Iterator[PageServer]:
    made = PageServer(0, lambda token: f"<p>{token}</p>".encode(), answer)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def server() -> Iterator[PageServer]:
    with serving(echo) as made:
        yield made


def send(server: PageServer, method: str, path: str, body: bytes | None = None, **headers: str | None) -> Reply:
    """One request; ``headers`` with ``_`` for ``-`` are sent as they are, None leaves one out."""
    wanted: dict[str, str | None] = {"Host": f"{HOST}:{server.server_port}"}
    if method == "POST":
        wanted |= {TOKEN_HEADER: server.token, "Content-Type": "application/json"}
        wanted |= {"Content-Length": str(len(body or b""))}
    wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection(HOST, server.server_port, timeout=20)) as connection:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in wanted.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read()
    found = json.loads(content) if response.headers["Content-Type"] == "application/json" and content else content
    return response.status, dict(response.headers), found


def ask(server: PageServer, asked: Any, **headers: str | None) -> Reply:
    return send(server, "POST", "/ask", json.dumps(asked).encode(), **headers)


def test_the_page_and_its_questions_are_answered(server: PageServer) -> None:
    status, headers, content = send(server, "GET", "/")
    assert (status, content) == (200, f"<p>{server.token}</p>".encode())
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert ask(server, {"question": "🙂"})[::2] == (200, {"asked": {"question": "🙂"}})
    assert ask(server, 1, Origin=server.url.rstrip("/"), Host=f"localhost:{server.server_port}")[0] == 200
    assert send(server, "HEAD", "/")[::2] == (200, b"")


def test_only_this_machine_is_served(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    for reply in (send(server, "GET", "/"), ask(server, 1), send(server, "GET", "/x")):
        headers = reply[1]
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["Server"] == "dpc"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", None])
def test_a_name_that_leads_here_from_outside_gets_nothing(server: PageServer, host: str | None) -> None:
    named = None if host is None else host.format(port=server.server_port)
    for reply in (send(server, "GET", "/", Host=named), ask(server, 1, Host=named)):
        assert (reply[0], "error" in reply[2]) == (403, True)


REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "another site": ({"Origin": "https://evil.example"}, 403),
    "a page without an origin": ({"Origin": "null"}, 403),
    "no token": ({TOKEN_HEADER: None}, 403),
    "another token": ({TOKEN_HEADER: "x"}, 403),
    "a token that is no ASCII": ({TOKEN_HEADER: "\xe9"}, 403),
    "a form": ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    "plain text": ({"Content_Type": "text/plain"}, 415),
    "no length": ({"Content_Length": None}, 411),
    "a length that is none": ({"Content_Length": "-1"}, 411),
    "a length in other digits": ({"Content_Length": "\xb2"}, 411),
    "parts": ({"Transfer_Encoding": "chunked"}, 411),
    "far too much": ({"Content_Length": "9" * 4000}, 413),
    "too much": ({"Content_Length": str(2**16 + 1)}, 413),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_page_of_ours_sends_is_refused(server: PageServer, case: str) -> None:
    headers, status = REFUSED[case]
    found, _, content = ask(server, {"question": "?"}, **headers)
    assert found == status
    assert list(content) == ["error"]
    assert "\n" not in content["error"]
    assert ask(server, 1)[0] == 200


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 60_000, b'{"a": 1' + b"0" * 5000 + b"}", b"\x00"])
def test_what_is_no_json_is_said_to_be_none(server: PageServer, body: bytes) -> None:
    status, _, content = send(server, "POST", "/ask", body)
    assert (status, content) == (400, {"error": "expected JSON in UTF-8"})
    assert ask(server, 1)[0] == 200


@pytest.mark.parametrize("path", ["/../etc/passwd", "/%2e%2e/", "/index.html", "/ask", "/?token", "http://x/", "*"])
def test_there_are_no_paths(server: PageServer, path: str) -> None:
    assert send(server, "GET", path)[0] == 404
    assert send(server, "POST", path.replace("/ask", "/"), b"1")[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "GET2"])
def test_there_are_no_other_methods(server: PageServer, method: str) -> None:
    status, headers, content = send(server, method, "/")
    assert (status, list(content)) == (501, ["error"])
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET <script>alert(1)</script> HTTP/1.1\r\n\r\n",
    ],
)
def test_noise_does_not_end_it(server: PageServer, sent: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection((HOST, server.server_port), timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
    assert b"<script>" not in received or b"application/json" in received
    assert server.token.encode() not in received
    assert ask(server, 1)[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_who_goes_away_or_sends_nothing_holds_nobody_up(
    server: PageServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server.RequestHandlerClass, "timeout", 1.0)
    head = f"POST /ask HTTP/1.1\r\nHost: {HOST}:{server.server_port}\r\n{TOKEN_HEADER}: {server.token}\r\n"
    promised = f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode()
    with ExitStack() as stack:
        idle = []
        for place in range(12):
            idle.append(stack.enter_context(socket.create_connection((HOST, server.server_port), timeout=20)))
            if place < 6:
                idle[-1].sendall(promised)
        assert ask(server, 1)[0] == 200
        assert b" 408 " in idle[0].recv(100)
    assert ask(server, 1)[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_errors_are_one_line_and_the_next_question_is_answered(
    server: PageServer, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ask(server, {"raise": "user"})[::2] == (422, {"error": "what a user can mend"})
    assert ask(server, {"raise": "memory"})[::2] == (507, {"error": "out of memory; ask a shorter question"})
    status, _, content = ask(server, {"raise": "bug"})
    assert (status, content) == (500, {"error": "KeyError; the terminal says more"})
    assert capfd.readouterr().err == "error: KeyError: 'secret path'\n"
    assert ask(server, 1)[0] == 200


def test_questions_are_answered_one_at_a_time_and_too_many_are_sent_away() -> None:
    go, running, together = threading.Event(), [], []

    def hold(asked: Any) -> dict[str, Any]:
        running.append(asked)
        together.append(len(running))
        go.wait(20)
        running.remove(asked)
        return {}

    with serving(hold) as server:
        replies: list[int] = []
        threads = [threading.Thread(target=lambda n=n: replies.append(ask(server, n)[0])) for n in range(12)]
        for thread in threads:
            thread.start()
        while len(replies) < 4:
            time.sleep(0.01)
        assert replies == [503] * 4
        go.set()
        for thread in threads:
            thread.join()
        assert sorted(replies) == [200] * 8 + [503] * 4
        assert together == [1] * 8
        assert ask(server, 1)[0] == 200


def test_a_port_that_is_taken_is_named(server: PageServer) -> None:
    with pytest.raises(UserError, match=f"--port {server.server_port}: Address already in use; choose another"):
        PageServer(server.server_port, lambda token: b"", echo)


def test_ctrl_c_ends_serving_after_the_answer_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    made = PageServer(0, lambda token: b"", echo)

    def interrupted(poll_interval: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(made, "serve_forever", interrupted)
    made.turn.acquire()
    ending = threading.Thread(target=serve, args=[made])
    ending.start()
    ending.join(0.1)
    assert ending.is_alive()
    made.turn.release()
    ending.join()
    assert made.fileno() == -1
