"""A receiver of alerts on loopback: it counts what it is sent, and answers as a test tells it to."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """status: what it answers. silent: it takes the request and never answers. drops: it hangs up."""

    def __init__(self) -> None:
        self.status, self.silent, self.drops = 200, False, False
        self.location = ""
        self.posts: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.ended = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {k.lower(): v for k, v in self.headers.items()}
                outer.posts.append((self.path, headers, json.loads(body)))
                if outer.silent:
                    outer.ended.wait(30)
                if outer.silent or outer.drops:
                    self.close_connection = True
                    return
                self.send_response(outer.status)
                if outer.location:
                    self.send_header("location", outer.location)
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def keys(self) -> list[str]:
        """The alerts that came, by their keys, in order."""
        return [body["key"] for _, _, body in self.posts]

    def close(self) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
