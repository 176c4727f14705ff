"""A runtime's Jupyter server. Guarantee: what comes back is what the far end told, by size and sha256.

"Essentially a Jupyter server": its REST API and kernels, with the header X-Colab-Runtime-Proxy-Token
(discovery document colaboratory v1beta, 20261104, Runtime and ConnectionInfo.token). Contents travel as JSON
with base64 (google-colab-cli 0.7.5, contents.py:52-66), large ones in chunks numbered from 1, the last -1
(jupyter_server 2.21.1, services/contents/largefilemanager.py:38-80). Code goes as JSON messages over the
websocket of a kernel's channels, default subprotocol (jupyter_server services/kernels/connection/base.py).
Paths begin at the root of the machine's contents, whose "content" is the working folder (the command line's
files.py: ``ls`` of "content"); a kernel is started there, so that relative paths mean the same on both sides.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from accel.core.errors import BadOutput, JobFailed, Rejected, Unauthorised, Unreachable
from accel.core.runtime import Offload
from accel.providers.base import Fetched
from accel.providers.colab_auth import NAME
from accel.providers.colab_calls import Connection
from accel.providers.fetching import MAX_FILE, MAX_FILES, SAFE
from accel.providers.transport import NotFound, Transport, sha256_of
from accel.worker.kernel_job import BEGUN, CELL, LOG, PIECE

ROOT = "content"
TOKEN_HEADER = "X-Colab-Runtime-Proxy-Token"
CHUNK = 8 << 20  # bytes of an upload's chunk
Read = Callable[[str, int], Awaitable[bytes]]


class Jupyter:
    """One runtime's server, for as long as ``connection`` lasts. To be closed. call_s: one request."""

    def __init__(self, connection: Connection, offload: Offload, call_s: float) -> None:
        self.connection, self._offload, self._call_s = connection, offload, call_s
        self._base = connection.url.rstrip("/")
        self._transport = Transport(
            self._base, provider=NAME, headers={TOKEN_HEADER: connection.token}, timeout_s=call_s,
        )  # fmt: skip

    async def aclose(self) -> None:
        """Close the kept connections."""
        await self._transport.aclose()

    # --- a job

    async def state(self, name: str) -> Mapping[str, Any] | None:
        """What the job in folder ``name`` tells of itself (see ``worker.kernel_job``); None: not begun."""
        try:
            return read_state(await self._read(f"{name}/state.json", MAX_FILES * 512))
        except NotFound:
            return None

    async def send(self, name: str, files: Mapping[str, bytes]) -> None:
        """Put ``files`` into folder ``name`` (made, if need be)."""
        await self._put(f"{ROOT}/{name}", {"type": "directory"})
        for file, data in files.items():
            pieces = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)] or [b""]
            for number, piece in enumerate(pieces, 1):
                body = {
                    "type": "file", "format": "base64", "content": base64.b64encode(piece).decode(),
                    "chunk": number if number < len(pieces) else -1,
                }  # fmt: skip
                if len(pieces) == 1:
                    del body["chunk"]
                await self._put(f"{ROOT}/{name}/{file}", body)

    async def begin(self, name: str, lifetime_s: float) -> None:
        """Have a kernel begin the job in folder ``name``; returns once it says so. Safe to repeat."""
        kernel = (await self._transport.request(
            "POST", "/api/kernels", body={"name": "python3", "path": ROOT}
        )).mapping().get("id")  # fmt: skip
        if not isinstance(kernel, str):
            raise Unreachable("it started no kernel.", provider=NAME)
        code = CELL.format(folder=name, seconds=f"{lifetime_s:.0f}")
        await self._offload(self._execute, kernel, code)

    async def fetch(self, name: str, into: Path) -> Fetched:
        """Every file of the job, in ``into`` (created), each of the size and sha256 that were told."""
        return await brought_home(name, await self.state(name), into, self._read, self._offload)

    # --- the wire

    async def _put(self, path: str, body: Mapping[str, Any]) -> None:
        await self._transport.request("PUT", f"/api/contents/{quote(path)}", body=dict(body))

    async def _read(self, path: str, limit: int) -> bytes:
        """A file of at most ``limit`` bytes. Raises NotFound, and BadOutput for one that is cut off."""
        answer = await self._transport.request(
            "GET", f"/api/contents/{quote(f'{ROOT}/{path}')}", max_bytes=limit * 3 // 2 + (64 << 10),
            params={"content": "1", "type": "file", "format": "base64"},
        )  # fmt: skip
        told = answer.mapping()
        try:
            return base64.b64decode(str(told["content"]), validate=False)
        except (KeyError, binascii.Error, ValueError):
            raise Unreachable("a file that it sent cannot be read.", provider=NAME) from None

    def _execute(self, kernel: str, code: str) -> None:
        """Send one cell and wait until it has printed ``BEGUN``; what it does then goes on without us."""
        try:
            import websocket
        except ImportError:
            raise Rejected("websocket-client is not installed.", provider=NAME,
                           hint="Install it: pip install 'accel[colab]'.") from None  # fmt: skip
        session = uuid.uuid4().hex
        parts = urlsplit(self._base)
        url = f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}{parts.path}"
        ends = time.monotonic() + self._call_s
        socket = None
        try:
            socket = websocket.create_connection(
                f"{url}/api/kernels/{kernel}/channels?session_id={session}", timeout=self._call_s,
                header=[f"{TOKEN_HEADER}: {self.connection.token}"], suppress_origin=True,
                redirect_limit=0, enable_multithread=False,
            )  # fmt: skip
            message = _request(session, code)
            socket.send(json.dumps(message))
            self._until_begun(socket, message["header"]["msg_id"], ends)
        except websocket.WebSocketBadStatusException as refused:
            if refused.status_code in (401, 403):
                raise Unauthorised("the runtime's token is not taken.", provider=NAME) from None
            raise Unreachable(f"its kernel cannot be reached (HTTP {refused.status_code}).",
                              provider=NAME) from None  # fmt: skip
        except (websocket.WebSocketException, OSError) as gone:
            raise Unreachable(f"its kernel does not answer ({type(gone).__name__}).",
                              provider=NAME) from None  # fmt: skip
        finally:
            if socket is not None:
                with contextlib.suppress(websocket.WebSocketException, OSError):
                    socket.close(timeout=1)

    def _until_begun(self, socket: Any, ident: str, ends: float) -> None:
        while (left := ends - time.monotonic()) > 0:
            socket.settimeout(left)
            try:
                told = json.loads(socket.recv())
                about, kind, content = told["parent_header"].get("msg_id"), told["msg_type"], told["content"]
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # a binary frame, or a message that is none of ours
            if about != ident:
                continue
            if kind == "stream" and BEGUN in str(content.get("text", "")):
                return
            if kind == "error" or (kind == "execute_reply" and content.get("status") != "ok"):
                words = self._transport.clean(f"{content.get('ename')}: {content.get('evalue')}")
                raise JobFailed(f"the kernel could not begin the job ({words})", provider=NAME)
        raise Unreachable("its kernel did not begin the job in time.", provider=NAME)


def _request(session: str, code: str) -> dict[str, Any]:
    """An execute_request (Jupyter messaging 5.3)."""
    header = {
        "msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "accel", "session": session,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "version": "5.3",
    }  # fmt: skip
    content = {
        "code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False,
        "stop_on_error": True,
    }  # fmt: skip
    return {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell",
            "buffers": []}  # fmt: skip


async def brought_home(
    name: str, told: Mapping[str, Any] | None, into: Path, read: Read, offload: Offload
) -> Fetched:
    """Every file that the job in folder ``name`` tells of (``told``: its state), in ``into`` (created).

    read: a path below the working folder and a limit in bytes → what is there. Raises JobFailed for a job
    that left nothing, BadOutput for a file that is not what was told.
    """
    files = told.get("files") if told else None
    if not isinstance(files, dict) or not files or len(files) > MAX_FILES:
        message = str(told.get("message", "")) if told else "it never began"
        raise JobFailed(f"the job left no result ({message})", provider=NAME)
    await offload(lambda: into.mkdir(parents=True, exist_ok=True))
    found = {file: await _one(name, file, entry, into, read, offload) for file, entry in files.items()}
    log = ""
    if (path := found.pop(LOG, None)) is not None:
        log = path.read_text(errors="replace")
        path.unlink()
    if not found:
        raise JobFailed("the job left no result", provider=NAME, log_tail=log[-2000:])
    return Fetched(found, log)


async def _one(name: str, file: str, entry: Any, into: Path, read: Read, offload: Offload) -> Path:
    try:
        size, digest, parts = int(entry["bytes"]), str(entry["sha256"]), int(entry["parts"])
    except (KeyError, TypeError, ValueError):
        raise BadOutput("its list of files cannot be read.", provider=NAME) from None
    if not SAFE.fullmatch(file) or not 0 <= size <= MAX_FILE or not 1 <= parts <= size // PIECE + 1:
        raise BadOutput("it names a file that may not come here.", provider=NAME)
    part = into / f".{file}.part"
    try:
        with part.open("wb") as out:
            for number in range(parts):
                out.write(await read(f"{name}/parts/{file}.{number}", PIECE))
        if part.stat().st_size != size or await offload(sha256_of, part) != digest:
            raise BadOutput(f"{file} is not what the runtime told.", provider=NAME)
        return part.replace(into / file)
    except NotFound:
        raise BadOutput(f"{file}: it is listed, but not there.", provider=NAME) from None
    finally:
        part.unlink(missing_ok=True)


def read_state(data: bytes) -> Mapping[str, Any]:
    """What a job tells of itself (``worker.kernel_job``). Raises Unreachable for what is no such thing."""
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or not isinstance(told.get("state"), str):
        raise Unreachable("what its job tells cannot be read.", provider=NAME)
    return told
