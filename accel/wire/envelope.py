"""The envelope. Guarantee: ``from_bytes`` returns bit for bit what ``to_bytes`` was given, or raises.

One safetensors blob: the tensors, and a header with the version, the task's id, the Spec and free
``meta`` as JSON, and a BLAKE2b-256 over all of them. The same bytes on the wire, on disk and in the cache,
and equal envelopes give equal bytes: the header is one entry, because safetensors writes several in any
order. safetensors holds no code, so that reading an untrusted envelope runs nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

VERSION = 1
HEADER = "accel"  # the name of our entry in the safetensors header
MAX_BYTES = 1 << 30  # one envelope is a batch, not a corpus: larger inputs travel as references
# what safetensors holds in every version, little-endian: everything else is refused, not converted
_DTYPES = frozenset({
    "|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8",
})  # fmt: skip


_json = json.JSONEncoder(sort_keys=True, ensure_ascii=True).encode  # json.dumps makes a new one each time


class EnvelopeError(ValueError):
    """Bytes that are not a whole, unaltered envelope of this version."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Tensors with the task and Spec they belong to.

    task_id: whose work this is. spec: ``Spec.fields()``. tensors: name → C-contiguous array.
    meta: small JSON values (operation, k, index id, timings); never a secret.
    """

    task_id: str
    spec: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """BLAKE2b-256, hex, over version, task, spec, meta and every tensor: name, dtype, shape, bytes."""
        h = hashlib.blake2b(digest_size=32)
        head = [VERSION, self.task_id, dict(self.spec), dict(self.meta)]
        _feed(h, _json(head).encode())
        for name in sorted(self.tensors):
            array = _plain(self.tensors[name])
            _feed(h, f"{name}|{array.dtype.str}|{array.shape}".encode())
            _feed(h, array.tobytes())
        return h.hexdigest()

    def not_numbers(self) -> list[str]:
        """Names of tensors that hold NaN or +infinity. -infinity is legal: it pads a row of hits."""
        # one pass: the maximum is NaN where anything is, and NaN is below nothing
        return [
            name for name, t in self.tensors.items()
            if t.dtype.kind == "f" and t.size and not np.maximum.reduce(t, axis=None) < np.inf
        ]  # fmt: skip

    def to_bytes(self) -> bytes:
        """Serialise. Raises EnvelopeError for other than plain numbers, or more than ``MAX_BYTES``."""
        arrays = {k: _plain(v) for k, v in self.tensors.items()}
        if sum(a.nbytes for a in arrays.values()) > MAX_BYTES:
            raise EnvelopeError(f"an envelope holds at most {MAX_BYTES} bytes")
        header = {
            "version": VERSION,
            "task_id": self.task_id,
            "spec": dict(self.spec),
            "meta": dict(self.meta),
            "digest": self.digest(),
        }
        return save(arrays, metadata={HEADER: _json(header)})

    @classmethod
    def from_bytes(cls, blob: bytes) -> Envelope:
        """Parse and verify. Raises EnvelopeError when anything is missing, altered or of another version."""
        if len(blob) > MAX_BYTES + (1 << 20):
            raise EnvelopeError(f"{len(blob)} bytes: an envelope holds at most {MAX_BYTES}")
        try:
            header = _metadata(blob)
            version = header["version"]
            if version != VERSION:
                raise EnvelopeError(f"envelope version {version}, this is version {VERSION}")
            if not (isinstance(header["spec"], dict) and isinstance(header["meta"], dict)):
                raise EnvelopeError("the envelope's Spec or meta is no JSON object")
            envelope = cls(str(header["task_id"]), header["spec"], load(blob), header["meta"])
            digest = header["digest"]
        except EnvelopeError:
            raise
        except (
            SafetensorError, KeyError, ValueError, TypeError, AttributeError, OverflowError,
            RecursionError,
        ) as bad:  # fmt: skip
            raise EnvelopeError(f"not a whole envelope: {type(bad).__name__}: {bad}") from bad
        if envelope.digest() != digest:
            raise EnvelopeError("the envelope's content does not match its digest")
        return envelope


def _plain(array: np.ndarray) -> np.ndarray:
    """The same numbers, C-contiguous and little-endian; a scalar stays a scalar. Raises EnvelopeError."""
    made = np.asarray(array, order="C")
    if made.dtype.byteorder == ">":
        made = made.astype(made.dtype.newbyteorder("<"))
    if made.dtype.str not in _DTYPES:
        raise EnvelopeError(f"arrays of {made.dtype} do not travel")
    return made


def _feed(h: Any, part: bytes) -> None:
    h.update(len(part).to_bytes(8, "little"))
    h.update(part)


def _metadata(blob: bytes) -> Mapping[str, Any]:
    """Our header in a safetensors blob (8-byte little-endian length, then JSON)."""
    if len(blob) < 8:
        raise EnvelopeError(f"{len(blob)} bytes are no envelope")
    length = int.from_bytes(blob[:8], "little")
    if length > len(blob) - 8:
        raise EnvelopeError("the envelope is cut off")
    found = json.loads(blob[8 : 8 + length]).get("__metadata__")
    if not isinstance(found, dict) or HEADER not in found:
        raise EnvelopeError("these tensors carry no envelope header")
    header = json.loads(found[HEADER])
    if not isinstance(header, dict):
        raise EnvelopeError("the envelope header is no JSON object")
    return header


def pack_texts(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Texts as two tensors: ``text_bytes`` uint8 (total,) UTF-8, ``text_ends`` int64 (n,) end offsets."""
    encoded = [t.encode("utf-8", "surrogatepass") for t in texts]
    return {
        "text_bytes": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        "text_ends": np.array(list(itertools.accumulate(map(len, encoded))), np.int64),
    }


def unpack_texts(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Inverse of ``pack_texts``. Raises EnvelopeError if the two tensors do not belong together."""
    try:
        data, offsets = tensors["text_bytes"], tensors["text_ends"]
    except KeyError as missing:
        raise EnvelopeError(f"no tensor {missing}") from missing
    if data.dtype != np.uint8 or offsets.dtype != np.int64 or offsets.ndim != 1:
        raise EnvelopeError("text travels as uint8 bytes and int64 end offsets")
    blob, ends = data.tobytes(), offsets.tolist()
    bounds = [0, *ends]
    if bounds[-1] != len(blob) or bounds != sorted(bounds):
        raise EnvelopeError("text offsets do not fit the text")
    try:
        return [blob[a:b].decode("utf-8", "surrogatepass") for a, b in itertools.pairwise(bounds)]
    except UnicodeDecodeError as bad:
        raise EnvelopeError("text offsets cut a character in two") from bad
