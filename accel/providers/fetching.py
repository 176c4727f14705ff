"""Files brought home over HTTP. Guarantee: what lies there was told, byte for byte, and lies in its folder.

A far end tells name, size and sha256 of each; its word is not trusted: a name that could leave the folder,
more bytes than were told, or others, are ``BadOutput``, and nothing of that file stays.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from accel.core.errors import BadOutput
from accel.providers.transport import NotFound, Transport, sha256_of

MAX_FILES, MAX_FILE = 64, 4 << 30  # of one job; bytes
SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


async def bring_home(
    transport: Transport, under: str, told: Any, into: Path, *, piece: int, timeout_s: float
) -> dict[str, Path]:
    """Every file of ``told`` (name → {"bytes", "sha256"}) from ``under``/NAME, in ``into`` (created).

    Each is asked for in pieces of ``piece`` bytes (``?offset=&length=``), each within ``timeout_s``.
    """
    if not isinstance(told, dict) or len(told) > MAX_FILES:
        raise BadOutput("its list of files cannot be read.", provider=transport.provider)
    await asyncio.to_thread(lambda: into.mkdir(parents=True, exist_ok=True))
    return {name: await _one(transport, under, name, e, into, piece, timeout_s) for name, e in told.items()}


async def _one(
    transport: Transport, under: str, name: str, entry: Any, into: Path, piece: int, timeout_s: float
) -> Path:
    bad = transport.provider
    try:
        size, digest = int(entry["bytes"]), str(entry["sha256"])
    except (KeyError, TypeError, ValueError):
        raise BadOutput("its list of files cannot be read.", provider=bad) from None
    if not SAFE.fullmatch(name) or not 0 <= size <= MAX_FILE:
        raise BadOutput("it names a file that may not come here.", provider=bad)
    part = into / f".{name}.part"
    try:
        with part.open("wb") as file:
            have = 0
            while have < size:
                length = min(piece, size - have)
                got = await transport.download(
                    f"{under}/{name}", file, limit=length, timeout_s=timeout_s,
                    params={"offset": have, "length": length},
                )  # fmt: skip
                if not got:
                    raise BadOutput(f"{name}: {have} of {size} bytes came.", provider=bad)
                have += got
        if await asyncio.to_thread(sha256_of, part) != digest:
            raise BadOutput(f"{name} is not what the machine told.", provider=bad)
        return part.replace(into / name)
    except NotFound:
        raise BadOutput(f"{name}: it is listed, but not there.", provider=bad) from None
    finally:
        part.unlink(missing_ok=True)
