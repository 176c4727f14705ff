"""The optional generator, against a server on loopback: it cites what it was given, or is ignored."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from accel.core.errors import SettingsError
from accel.stages.answer import NOTHING, Answered, Citation
from accel.stages.generate import generate

EXTRACT = Answered(
    "a: Does it. [1]\nb: Does that. [2]",
    True,
    (Citation(1, "a", "s:1", "Does it.", 0.9), Citation(2, "b", "s:2", "Does that.", 0.8)),
    1.0,
)


class Server:
    def __init__(self) -> None:
        self.status, self.body, self.sleep_s = 200, b"", 0.0
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.path, dict(self.headers), json.loads(raw)))
                time.sleep(outer.sleep_s)
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()

    def says(self, text: object) -> None:
        self.body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.thread.join()
    made.http.server_close()


def test_a_cited_answer_replaces_the_extract(server: Server) -> None:
    server.says("It is done by a [1].")
    got = generate("how?", EXTRACT, server.url, model="tiny", key="k-1")
    assert got.text == "It is done by a [1]."
    assert got.written_by == "tiny"
    assert [c.number for c in got.citations] == [1]
    assert got.found
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer k-1"
    assert "Does that." in body["messages"][1]["content"]
    assert body["messages"][1]["content"].endswith("Question: how?")


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ("No citation at all.", "cited nothing"),
        ("Cites what was never given [7].", "cited what is not there"),
        ("", "cited nothing"),
        (None, "not a chat completion"),
        (17, "not a chat completion"),
    ],
)
def test_an_answer_without_ground_is_thrown_away(server: Server, says: object, why: str) -> None:
    server.says(says)
    got = generate("how?", EXTRACT, server.url)
    assert (got.text, got.citations, got.written_by) == (EXTRACT.text, EXTRACT.citations, "")
    assert why in got.note
    assert "extractive" in got.note


@pytest.mark.parametrize(
    ("status", "body"), [(500, b""), (401, b"secret-key"), (200, b"<html>"), (200, b"{}")]
)
def test_a_server_that_fails_leaves_the_extract(server: Server, status: int, body: bytes) -> None:
    server.status, server.body = status, body
    got = generate("how?", EXTRACT, server.url, key="secret-key")
    assert got.text == EXTRACT.text
    assert got.note
    assert "secret-key" not in got.note


def test_a_server_that_is_slow_or_gone_leaves_the_extract(server: Server) -> None:
    server.sleep_s = 1.0
    assert "within 0.1 s" in generate("how?", EXTRACT, server.url, timeout_s=0.1).note
    assert "could not be reached" in generate("how?", EXTRACT, "http://127.0.0.1:9/v1").note


def test_where_nothing_was_found_nothing_is_asked(server: Server) -> None:
    nothing = Answered(NOTHING, False, (), 0.1)
    assert generate("how?", nothing, server.url) is nothing
    assert server.requests == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:8080", "http://", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="http"):
        generate("how?", EXTRACT, url)
