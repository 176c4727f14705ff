"""The app that holds the pages. Guarantee: serving it opens no model, no corpus and no outside connection.

The pages, the engine behind them and the server share one process and one event loop: the engine is opened
by the first question and closed when the server ends. Errors in what was asked for (a port in use, a corpus
that is not there) are told before anything is served.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accel.core.errors import AccelError, CorpusError, UsageError
from accel.dashboard import ask, theme
from accel.dashboard.engine import Engine, engine_over

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST, PORT = "127.0.0.1", 7860
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CLOSING_S = 3  # open event streams of a page are not waited for longer


def build_app(engine: Engine, host: str = HOST, examples: Sequence[str] = ask.EXAMPLES) -> FastAPI:
    """Every page, mounted; ``engine`` is closed with the app.

    On a loopback host only requests addressed to it are answered: a foreign page whose name was made to
    point here gets nothing (DNS rebinding). Browsers are told to load nothing from anywhere else.
    """
    _quiet()
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await engine.close()

    with gr.Blocks(title="accel · ask", analytics_enabled=False) as pages:
        ask.build(engine, examples)
        # another page: `with pages.route("Providers"): providers.build(engine)`

    # without the pages that FastAPI makes: they load scripts from another host
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    if host in LOOPBACK:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK[:2], "[::1]"])
    app.add_middleware(_OnlyFromHere)
    return gr.mount_gradio_app(
        app, pages, path="/", server_name=host, theme=theme.theme(), head=theme.head(),
        footer_links=["api"], run_history=False, ssr_mode=False, show_error=True, pwa=False,
        mcp_server=False, enable_monitoring=False,
    )  # fmt: skip


def serve(host: str = HOST, port: int = PORT, corpus: Path | None = None, *, full: bool = False) -> None:
    """Serve until interrupted. Port 0 takes a free one; the address is printed when it can be opened.

    Raises CorpusError for a corpus that is not there, UsageError for an address that cannot be used.
    """
    if corpus is not None and not corpus.expanduser().exists():
        raise CorpusError(f"{corpus}: there is no such file or folder.")
    with listen(host, port) as listening:
        # the examples are about Python: over a corpus of one's own they would all find nothing
        app = build_app(engine_over(corpus, full=full), host, () if corpus else ask.EXAMPLES)
        print(f"The question page: {_url(listening)}  (Ctrl-C ends it)", flush=True)  # noqa: T201
        if host not in LOOPBACK:
            print(f"Anyone who reaches {host} can ask; there is no password.", flush=True)  # noqa: T201
        with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn after it has closed
            _server(app).run(sockets=[listening])


class _OnlyFromHere:
    """Adds the header by which a browser itself refuses every foreign script, style, font and connection."""

    # Gradio's page needs its inline scripts, and compiles templates
    POLICY = (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; "
        "form-action 'self'; base-uri 'self'"
    )

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"], (b"content-security-policy", self.POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]  # fmt: skip
            await send(message)

        await self._app(scope, receive, with_policy)


@contextlib.contextmanager
def serving(engine: Engine) -> Iterator[str]:
    """The pages served on a free loopback port by a thread, for tests and pictures; gives their URL."""
    with listen(HOST, 0) as listening:
        server = _server(build_app(engine))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="pages")
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.02)
            yield _url(listening)
        finally:
            server.should_exit = True
            thread.join()


def _server(app: FastAPI) -> uvicorn.Server:
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=CLOSING_S, lifespan="on")
    )


def _url(listening: socket.socket) -> str:
    address, port = listening.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError, which says what to do, when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OverflowError:
        raise UsageError(f"--port must be between 0 and 65535, not {port}.") from None
    except OSError as bad:
        if bad.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} on {host} is in use.",
                hint="Name another with --port; --port 0 takes any that is free.",
            ) from None
        raise UsageError(f"cannot listen on {host}, port {port} ({bad.strerror or bad}).") from None


def _quiet() -> None:
    """Gradio reads this when it is first imported: it is to report nothing and to look for no update."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of ``gradio_app.py``: 0 when it was ended, 2 when it could not begin."""
    parser = argparse.ArgumentParser(prog="gradio_app.py", description="The question page, in a browser.")
    parser.add_argument("--host", default=HOST, help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--corpus", type=Path, help="a file or folder; default: the installed docstrings")
    parser.add_argument("--full", action="store_true", help="every docstring, not a few thousand")
    asked = parser.parse_args(arguments)
    try:
        serve(asked.host, asked.port, asked.corpus, full=asked.full)
    except AccelError as failure:
        sys.stderr.write(f"accel: {failure}\n")
        return failure.exit_code
    return 0
