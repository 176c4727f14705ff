"""The sandbox Kaggle as a whole. Guarantee: when the context ends, nothing of it runs on.

    with KaggleSandbox() as sandbox:
        KaggleProvider(endpoint=sandbox.url, ...)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from accel.sandbox.cloud import SandboxCloud
from accel.sandbox.kaggle import KaggleApp
from accel.sandbox.kaggle_blobs import Blobs
from accel.sandbox.kaggle_datasets import Datasets
from accel.sandbox.runner import Runner
from accel.sandbox.serving import Server
from accel.sandbox.store import WEEK_S, Store

# Nominal seconds of the waits. Kaggle publishes none: these are round numbers, not measurements.
QUEUE_S, COLD_S, READY_S = 30.0, 60.0, 120.0
LARGEST = 20 << 30  # of one data set; ours: nobody rehearses with more


class KaggleSandbox(SandboxCloud[KaggleApp]):
    """A Kaggle on loopback, in a thread, for as long as the ``with`` block lasts.

    root: folder that keeps its state; None: a temporary one. port: 0 takes a free one. username, key,
    token: what clients sign in with; "" keeps those of ``root``, or makes new ones. time_scale: waits
    last 1/time_scale of their nominal queue_s and cold_s. gpu_hours: weekly GPU allowance. slots:
    scripts run at once. now: the sandbox's clock, epoch seconds. ready_s: nominal seconds that a data set is
    processed; largest: its bytes, at most. compute_s: see ``Runner``. week_over_s: nominal seconds of the
    first quota week that are over at the start of a new folder. Raises UsageError if the port or the
    folder is taken.
    """

    title, slug = "Kaggle", "kaggle"

    def __init__(
        self, root: Path | None = None, *, port: int = 0, username: str = "", key: str = "",
        token: str = "", time_scale: float = 60.0, queue_s: float = QUEUE_S, cold_s: float = COLD_S,
        gpu_hours: float = 30.0, slots: int = 2, faults: Iterable[Mapping[str, Any]] = (),
        deny_unknown: bool = True, now: Callable[[], float] = time.time, ready_s: float = READY_S,
        largest: int = LARGEST, compute_s: float | None = None, week_over_s: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(root, port=port, time_scale=time_scale, faults=faults)
        self.username = self.key = self.token = ""
        self._account = {"username": username, "key": key, "token": token}
        self._now, self._deny_unknown = now, deny_unknown
        self._ready_s, self._largest, self._week_over_s = ready_s, largest, week_over_s
        self._runner_options: dict[str, Any] = {
            "time_scale": time_scale, "queue_s": queue_s, "cold_s": cold_s, "slots": slots,
            "allowance_s": gpu_hours * 3600, "compute_s": compute_s,
        }  # fmt: skip
        self._store: Store | None = None

    def _open(self, root: Path, server: Server) -> KaggleApp:
        over_s = self._week_over_s / self.time_scale
        store = self._store = Store(root, now=self._now, week_over_s=over_s, **self._account)
        self.username, self.key, self.token = store.username, store.key, store.token
        blobs = Blobs(root / "uploads", self._now, WEEK_S)
        datasets = Datasets(
            root / "datasets", blobs, store.username, self._now, ready_s=self._ready_s / self.time_scale,
            time_scale=self.time_scale, largest=self._largest, deny_unknown=self._deny_unknown,
        )  # fmt: skip
        return KaggleApp(
            store, lambda s: Runner(s, inputs=datasets.folder, **self._runner_options), blobs, datasets,
            self._faults, deny_unknown=self._deny_unknown,
        )  # fmt: skip

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()

    def reset(self) -> None:
        """Start afresh: every session is killed, and kernels, charges, faults and requests forgotten."""
        self.app.reset()

    def describe(self) -> dict[str, Any]:
        """How to point a client here. The key and token open this sandbox and nothing else."""
        return super().describe() | {
            "username": self.username,
            "key": self.key,
            "token": self.token,
            # kagglesdk 0.1.37, kaggle_env.py:24-50: LOCALHOST is http://localhost, port 80; a proxy
            # brings it here. The downloads come from 127.0.0.1, and go there directly.
            "official_cli_env": {
                "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
                "KAGGLE_USERNAME": self.username,
                "KAGGLE_KEY": self.key,
                "http_proxy": self.url,
                "no_proxy": "127.0.0.1",
            },
            "accel": {"provider": "kaggle", "realm": "sandbox", "endpoint": self.url},
        }
