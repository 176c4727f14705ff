"""The first program on a rented machine. Guarantee: whatever happens, the machine ends itself in time.

This very source is a container's start command (``worker.start`` packs it), so that it needs Python 3.10
and its standard library only. It asks for a token, takes one wheel, the one whose sha256 it was given, and
becomes ``python -m accel.worker.server`` of it on the same socket: a connection made meanwhile waits, and
is not refused. What the server shares with it lives here, once: ``Listener`` (TLS, the token) and
``Machine`` (a hard lifetime, idle stop, and the request that ends the rental).

Environment: ACCEL_TOKEN; ACCEL_WHEEL_SHA256; ACCEL_LIFETIME_S from boot's start (3600), and ACCEL_ENDS_AT,
an instant in Unix seconds that outlives a restart of the container; ACCEL_IDLE_S (600; 0: never);
ACCEL_HOST (0.0.0.0), ACCEL_PORT (8000); ACCEL_NEEDS, "module=requirement ...", what pip installs where the
module is missing; ACCEL_CERT and ACCEL_KEY, PEM: then it speaks TLS; ACCEL_END, JSON: {"method", "url",
"headers", "body", "pause_s"}, how this machine asks its provider to end it, with {VAR} from the environment.
"""

from __future__ import annotations

import hashlib
import hmac
import http.server
import importlib.util
import io
import json
import os
import re
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

QUIET_S = 30  # at most, between two bytes of a request
WHEEL_BYTES = 16 << 20
TRIES = 5  # to be ended by the provider, with pauses that triple


def log(line: str) -> None:
    """One line into the container's log."""
    print("accel: " + line, flush=True)  # noqa: T201


class Machine:
    """How long this machine lives. busy: tells whether it works now, which is not idling."""

    busy: Callable[[], bool]

    def __init__(self, env: MutableMapping[str, str]) -> None:
        self.env, self.busy = env, lambda: False
        self.used = now = time.monotonic()
        # the monotonic clock goes on through exec; the server's Machine carries on from boot's
        self.began = float(env.setdefault("ACCEL_BEGAN", str(now)))
        self.ends = self.began + float(env.get("ACCEL_LIFETIME_S", 3600))
        if "ACCEL_ENDS_AT" in env:
            self.ends = min(self.ends, now + float(env["ACCEL_ENDS_AT"]) - time.time())
        self.idle_s = float(env.get("ACCEL_IDLE_S", 600))
        self._ending = threading.Lock()

    def watch(self) -> None:
        """End in time, from a thread of its own."""
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            now = time.monotonic()
            if now >= self.ends:
                self.end("its lifetime is over")
            if self.busy():
                self.used = now
            if self.idle_s > 0 and now >= self.used + self.idle_s:
                self.end(f"nobody used it for {self.idle_s:g} s")
            time.sleep(min(0.5, max(0.01, self.ends - now)))

    def end(self, why: str) -> None:
        """Ask the provider to end this machine, then leave, whatever it answered. Does not return."""
        self._ending.acquire()  # never released: the first to come ends it
        log("this machine ends: " + why)
        try:
            ask = json.loads(self.env.get("ACCEL_END", "{}"))
            for i in range(TRIES if ask else 0):
                if self._asked(**ask):
                    break
                time.sleep(ask.get("pause_s", 1) * 3**i)
        finally:  # nothing may keep it from leaving
            os._exit(0)

    def _asked(
        self, url: str, method: str = "DELETE", headers: Mapping[str, str] = {}, body: str = "",
        **_: object,
    ) -> bool:  # fmt: skip
        def fill(text: str) -> str:
            return re.sub(r"\{([A-Z][A-Z0-9_]*)\}", lambda name: self.env.get(name[1], ""), text)

        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                urllib.request.Request(
                    fill(url), fill(body).encode() or None, {k: fill(v) for k, v in headers.items()},
                    method=method,
                ), timeout=20,
            )  # fmt: skip
        except Exception as error:  # the class and status alone: they hold no secret
            status = getattr(error, "code", 0)
            log(f"asking to be ended: {type(error).__name__} {status}")
            return status in (404, 410)  # gone is what was asked for
        return True


class Listener(http.server.ThreadingHTTPServer):
    """Accepts connections, each in a thread; speaks TLS if the environment holds a certificate."""

    request_queue_size = 128
    machine: Machine
    once: threading.Lock
    delivered: threading.Event
    state = message = folder = wheel = ""

    def __init__(self, env: MutableMapping[str, str], door: Any) -> None:
        self.token = env["ACCEL_TOKEN"]
        if len(self.token) < 16:
            raise ValueError("ACCEL_TOKEN is too short")
        self.tls: ssl.SSLContext | None = None
        if env.get("ACCEL_CERT"):
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with tempfile.NamedTemporaryFile("w") as pem:  # ssl reads files only; this one is ours alone
                pem.write(env["ACCEL_CERT"] + "\n" + env["ACCEL_KEY"])
                pem.flush()
                self.tls.load_cert_chain(pem.name)
        handed = env.pop("ACCEL_FD", "")
        where = (env.get("ACCEL_HOST", "0.0.0.0"), int(env.get("ACCEL_PORT", 8000)))
        super().__init__(where, door, not handed)
        if handed:  # already listening
            self.socket.close()
            self.socket = socket.socket(fileno=int(handed))
            self.socket.set_inheritable(False)

    def server_bind(self) -> None:
        """Without the look-up of the host's name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)

    def knows(self, headers: Any) -> bool:
        """Whether the token was given. Digests are of one length: comparing them tells nothing, not even
        how long the token is."""
        pair = (headers.get("Authorization", ""), "Bearer " + self.token)
        return hmac.compare_digest(*(hashlib.sha256(t.encode("utf-8", "replace")).digest() for t in pair))

    def get_request(self) -> tuple[Any, Any]:
        """The handshake is left to the connection's thread: who does not speak must not stop the rest."""
        sock, where = super().get_request()
        sock.settimeout(QUIET_S)
        if self.tls:
            sock = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return sock, where

    def handle_error(self, request: Any, client_address: Any) -> None:
        log("a request failed: " + type(sys.exc_info()[1]).__name__)


class Boot(http.server.BaseHTTPRequestHandler):
    """GET /health: installing, waiting, starting (it has its wheel), failed. And PUT /wheel."""

    timeout = QUIET_S
    wbufsize = -1  # head and body in one piece: becoming the server must not cut an answer in two
    server: Listener

    def one(self) -> None:
        boot, size = self.server, self.headers.get("Content-Length", "")
        if not boot.knows(self.headers):
            return self.tell(401, error="Unauthorised", message="the token of this lease is asked for")
        if (self.command, self.path) == ("GET", "/health"):
            return self.tell(
                200, state=boot.state, message=boot.message, python=".".join(map(str, sys.version_info[:2])),
                wheel=boot.wheel, ends_in_s=boot.machine.ends - time.monotonic(),
            )  # fmt: skip
        if (self.command, self.path) != ("PUT", "/wheel"):
            return self.tell(503, error="Unreachable", message="it has no wheel yet")
        if not re.fullmatch("[0-9]{1,9}", size) or int(size) > WHEEL_BYTES:
            return self.tell(413, error="Rejected", message="too large for a wheel")
        data = self.rfile.read(int(size))
        if hashlib.sha256(data).hexdigest() != boot.wheel:
            return self.tell(422, error="Rejected", message="not the wheel this lease was made for")
        boot.machine.used = time.monotonic()
        with boot.once:
            if not boot.folder:
                folder = tempfile.mkdtemp(prefix="accel-wheel-")
                zipfile.ZipFile(io.BytesIO(data)).extractall(folder)
                boot.folder = folder
        self.tell(200, state="starting")
        return boot.delivered.set()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = one

    def tell(self, status: int, **said: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())
        self.wfile.flush()

    def log_message(self, *args: object) -> None:
        pass


def run(server: Listener, *command: str, env: Mapping[str, str]) -> None:
    """A Python of its own; a failure is told by /health, and nothing more happens here."""
    server.machine.busy = lambda: True
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, errors="replace", env=env
    )
    server.machine.busy = lambda: False
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no word"]
        server.state, server.message = "failed", (command[1] + ": " + lines[-1])[:300]
        log(server.message)
        threading.Event().wait()  # the watch ends it


def boot(machine: Machine) -> None:
    """Serve until the wheel is here, then become the server. Returns only by an exception."""
    env = machine.env
    needs = [n.partition("=") for n in env.get("ACCEL_NEEDS", "").split()]
    server = Listener(env, Boot)
    server.machine, server.wheel = machine, env["ACCEL_WHEEL_SHA256"]
    server.state = "installing"
    server.once, server.delivered = threading.Lock(), threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    missing = [wanted for module, _, wanted in needs if importlib.util.find_spec(module) is None]
    if missing:
        log("installing " + " ".join(missing))
        run(
            server, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *missing,
            env={**env, "PIP_BREAK_SYSTEM_PACKAGES": "1"},  # a container's Python is nobody else's
        )  # fmt: skip
    server.state = "waiting"
    server.delivered.wait()
    server.state = "starting"
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (server.folder, env.get("PYTHONPATH"))))
    env["PYTHONSAFEPATH"] = "1"  # the wheel's accel, not one that lies where this was started
    run(server, "-c", "import accel.worker.server", env=env)  # it would not come back from exec
    server.socket.set_inheritable(True)
    env["ACCEL_FD"] = str(server.socket.fileno())
    os.execve(sys.executable, [sys.executable, "-m", "accel.worker.server"], env)


def main(work: Callable[[Machine], None] = boot) -> None:
    """Watch the clock, and work. A failure ends the machine, too."""
    machine = Machine(os.environ)
    machine.watch()
    try:
        work(machine)
        why = "its work is done"
    except Exception as error:
        why = type(error).__name__ + (str(error) if isinstance(error, KeyError) else "")
    machine.end(why)


if __name__ == "__main__":
    main()
