"""The sandbox Modal on disk. Guarantee: one started again on its folder knows every app, job and charge.

One JSON file, replaced by rename before a call is answered; messages of the protocol are kept as they are,
base64. Kept are apps, functions, calls that nobody waits for (``.spawn``), containers with what they cost,
contents and volumes. A container that ran when the sandbox ended has ended now, and its input starts again.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accel.sandbox.modal_billing import Container
from accel.sandbox.modal_state import App, Call, Function, Input, State, protocol

FILE = "account.json"
CONTAINER = ("id", "function_id", "nano_per_hour", "began_at", "cold_s", "ready_at", "ended_at", "why")
ASYNC = 3  # enum FunctionCallInvocationType: what ``.spawn`` sends
STOPPED_WITH_US = "the sandbox was stopped while it ran"


def token(root: Path, ident: str, secret: str) -> tuple[str, str]:
    """The account's token: what is given, else what the folder holds, else ("", "")."""
    kept = _read(root).get("token", ["", ""])
    return ident or kept[0], secret or kept[1]


def save(state: State, containers: dict[str, Container], signed: tuple[str, str]) -> None:
    """Write everything down."""
    calls = [c for c in state.calls.values() if c.kind == ASYNC]
    kept = {
        "token": signed,
        "apps": [asdict(a) for a in state.apps.values()],
        "functions": [
            {n: getattr(f, n) for n in ("id", "app_id", "tag")}
            | {n: _text(getattr(f, n)) for n in ("definition", "data", "handle", "settings")}
            for f in state.functions.values()
        ],
        "calls": [
            {n: getattr(c, n) for n in ("id", "function_id", "kind", "created_at", "seen")}
            | {"outputs": [(n, _text(o)) for n, o in c.outputs], "inputs": [_input(i) for i in c.inputs]}
            for c in calls
        ],
        "containers": [{n: getattr(c, n) for n in CONTAINER} | {"secret": ""} for c in containers.values()],
        "mounts": {ident: [_text(f) for f in files] for ident, files in state.mounts.items()},
        "blobs": state.blobs, "volumes": state.volumes, "volume_names": state.volume_names,
    }  # fmt: skip
    part = state.root / f"{FILE}.part"
    part.touch(mode=0o600)
    part.write_text(json.dumps(kept))
    part.replace(state.root / FILE)


def load(state: State, containers: dict[str, Container]) -> None:
    """Take up what ``save`` wrote, if it did."""
    pb, kept = protocol(), _read(state.root)
    if not kept:
        return
    state.apps = {a["id"]: App(**a) for a in kept["apps"]}
    for f in kept["functions"]:
        state.functions[f["id"]] = Function(
            f["id"], f["app_id"], f["tag"], _message(pb.Function, f["definition"]),
            _message(pb.FunctionData, f["data"]), _message(pb.FunctionHandleMetadata, f["handle"]),
            _message(pb.AutoscalerSettings, f["settings"]),
        )  # fmt: skip
    for c in kept["containers"]:
        container = containers[c["id"]] = Container(**c)
        if not container.ended_at:
            container.ended_at, container.why = state.now(), STOPPED_WITH_US
    for c in kept["calls"]:
        call = Call(c["id"], c["function_id"], c["kind"], c["created_at"], seen=c["seen"])
        call.outputs = [(n, _message(pb.FunctionGetOutputsItem, o)) for n, o in c["outputs"]]
        state.calls[call.id] = call
        for given in c["inputs"]:
            result = _message(pb.GenericResult, given.pop("result"))
            payload = _message(pb.FunctionInput, given.pop("payload"))
            taken = Input(**given, payload=payload, result=result)
            state.inputs[taken.id] = taken
            call.inputs.append(taken)
            if result is None:
                if taken.started_at:
                    state.again(taken)
                else:
                    state.functions[call.function_id].pending.append(taken)
    state.mounts = {i: [_message(pb.MountFile, f) for f in files] for i, files in kept["mounts"].items()}
    state.blobs, state.volumes, state.volume_names = kept["blobs"], kept["volumes"], kept["volume_names"]


def _input(given: Input) -> dict[str, Any]:
    plain = {n: getattr(given, n) for n in Input.__slots__}
    return plain | {"payload": _text(given.payload), "result": _text(given.result)}


def _read(root: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((root / FILE).read_text())
        return found
    except FileNotFoundError:
        return {}


def _text(message: Any) -> str | None:
    return None if message is None else base64.b64encode(message.SerializeToString()).decode()


def _message(kind: Any, text: str | None) -> Any:
    return None if text is None else kind.FromString(base64.b64decode(text))
