"""The sandbox Kaggle's data sets. Guarantee: a session finds a data set only once it is READY, whole.

``kd`` = kagglesdk 0.1.37, kagglesdk/datasets/types/dataset_api_service.py; ``kx`` as in ``sandbox.kaggle``.
States come in the order of dataset_enums.py:3-12, each for a share of the time that processing takes. The
client's own rules (6 to 50 characters, one licence: kx:5565-5573) are held here, too, as refusals; the words
of those are ours, but for a title in use (kx:5596). Too large a one is told there by a state that never
becomes READY (kaggle-cli issue 424): here by FAILED, so that a rehearsal ends.

Faults: CORRUPTED on a create: its processing fails. COLD_START on a create: it takes ``seconds`` nominal (0:
for ever).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accel.sandbox.faults import Fault, FaultKind
from accel.sandbox.kaggle_blobs import Blobs
from accel.sandbox.store import SLUG
from accel.sandbox.wire import Refused

DATASETS = "datasets.DatasetApiService"
BLOBS = "blobs.BlobApiService"
ON_THE_WAY = (
    "NOT_YET_PERSISTED", "BLOBS_RECEIVED", "BLOBS_DECOMPRESSED", "BLOBS_COPIED_TO_SDS",
    "INDIVIDUAL_BLOBS_COMPRESSED",
)  # fmt: skip
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated call: JSON parameters, the address the client reached us at, its fault."""

    params: dict[str, Any]
    base: str
    fault: Fault | None


@dataclass(slots=True)
class Dataset:
    """One data set's newest version. ready_at: epoch seconds; fails: then it is FAILED."""

    slug: str
    title: str
    licence: str
    is_private: bool
    dataset_id: int
    version: int
    made_at: float
    ready_at: float
    fails: bool = False

    def state(self, now: float) -> str:
        if now >= self.ready_at:
            return "FAILED" if self.fails else "READY"
        share = (now - self.made_at) / (self.ready_at - self.made_at)
        return ON_THE_WAY[min(len(ON_THE_WAY) - 1, int(share * len(ON_THE_WAY)))]


class Datasets:
    """The data sets of one account, in a folder. username: whose. ready_s: real seconds of processing.
    time_scale: nominal seconds of a fault last 1/``time_scale``. largest: bytes of all files of one.
    table: "service/Method" → what answers it. deny_unknown: as in ``KernelCalls``."""

    def __init__(
        self, root: Path, blobs: Blobs, username: str, now: Callable[[], float], *, ready_s: float,
        time_scale: float, largest: int, deny_unknown: bool,
    ) -> None:  # fmt: skip
        self._root, self._blobs, self.username, self._now = root, blobs, username, now
        self._ready_s, self._time_scale, self._largest = ready_s, time_scale, largest
        self._deny_unknown = deny_unknown
        self.table: dict[str, Callable[[Call], Awaitable[dict[str, Any]]]] = {
            f"{BLOBS}/StartBlobUpload": self._start,
            f"{DATASETS}/CreateDataset": self._create,
            f"{DATASETS}/CreateDatasetVersion": self._version,
            f"{DATASETS}/GetDatasetStatus": self._status,
            f"{DATASETS}/GetDataset": self._get,
            f"{DATASETS}/ListDatasets": self._list,
            f"{DATASETS}/ListDatasetFiles": self._files_of,
            f"{DATASETS}/DeleteDataset": self._delete,
        }

    def folder(self, ref: str) -> Path | None:
        """The files of "user/slug", for a session; None where it is unknown or not READY."""
        owner, _, slug = ref.partition("/")
        found = self._load(slug) if owner == self.username else None
        if found is None or found.state(self._now()) != "READY":
            return None
        return self._root / found.slug / f"v{found.version}"

    def clear(self) -> None:
        """Forget all of them."""
        shutil.rmtree(self._root, ignore_errors=True)

    async def _start(self, call: Call) -> dict[str, Any]:
        p = call.params
        size = int(p.get("contentLength") or 0)
        if p.get("type") != "DATASET" or not p.get("name") or size < 0:
            raise Refused(400, "Bad Request")
        blob = self._blobs.start(Path(str(p["name"])).name, size)
        return {"token": blob.token, "createUrl": f"{call.base}/_blobs/{blob.token}"}

    async def _create(self, call: Call) -> dict[str, Any]:
        """kd:136-418; a refusal is HTTP 200 with ``error`` (kx:5640)."""
        p = call.params
        slug, title = str(p.get("slug", "")), str(p.get("title", ""))
        if p.get("ownerSlug") != self.username:
            return {"status": "error", "error": "You are not allowed to create a dataset as this owner."}
        if not SLUG.fullmatch(slug) or not 6 <= len(slug) <= 50 or not 6 <= len(title) <= 50:
            return {"status": "error", "error": "The slug and the title must be between 6 and 50 characters."}
        if not p.get("licenseName"):
            return {"status": "error", "error": "A license must be specified."}
        if self._load(slug):
            told = f'The requested title "{title}" is already in use by a dataset.'
            return {"status": "error", "error": f"{told} Please choose another title."}
        ident = sum(slug.encode()) * 7919 % (1 << 30) + 1
        made = Dataset(slug, title, str(p["licenseName"]), bool(p.get("isPrivate")), ident, 1, 0.0, 0.0)
        return self._process(made, call, p.get("files"))

    async def _version(self, call: Call) -> dict[str, Any]:
        """kd:471-657; the files of a version are those that it names (kx:5372-5380)."""
        p = call.params
        found = self._known(p)
        body = p.get("body") or {}
        found.version += 1
        return self._process(found, call, body.get("files"))

    def _process(self, dataset: Dataset, call: Call, files: Any) -> dict[str, Any]:
        blobs = [self._blobs.find(str(f.get("token", ""))) for f in files or []]
        if not blobs or any(b is None or not b.whole for b in blobs):
            return {"status": "error", "error": "A file of it was not uploaded."}
        dataset.made_at, dataset.fails = self._now(), False
        wait_s, kind = self._ready_s, call.fault.kind if call.fault else None
        if call.fault and kind is FaultKind.COLD_START:
            wait_s = call.fault.seconds / self._time_scale or NEVER
        if kind is FaultKind.CORRUPTED or sum(b.size for b in blobs if b) > self._largest:
            dataset.fails = True
        dataset.ready_at = dataset.made_at + wait_s
        into = self._root / dataset.slug / f"v{dataset.version}"
        into.mkdir(parents=True)
        for blob in blobs:
            assert blob is not None
            shutil.copyfile(blob.path, into / blob.name)
        self._save(dataset)
        ref = f"{self.username}/{dataset.slug}"
        return {"ref": ref, "url": f"{call.base}/datasets/{ref}", "status": "ok", "error": ""}

    async def _status(self, call: Call) -> dict[str, Any]:
        """kd:1927-1997. The SDK leaves a default out, so that the first state is no field at all."""
        state = self._known(call.params).state(self._now())
        return {} if state == ON_THE_WAY[0] else {"status": state}

    async def _get(self, call: Call) -> dict[str, Any]:
        return self._metadata(self._known(call.params))

    async def _list(self, call: Call) -> dict[str, Any]:
        """kd:2158-2425. Only this account's exist here, whatever the group asked for."""
        wanted = str(call.params.get("search", "")).lower()
        found = [self._load(f.parent.name) for f in sorted(self._root.glob("*/dataset.json"))]
        return {"datasets": [self._metadata(d) for d in found if d and wanted in d.slug]}

    async def _files_of(self, call: Call) -> dict[str, Any]:
        """kd:1998-2157."""
        found = self._known(call.params)
        ref, folder = f"{self.username}/{found.slug}", self._root / found.slug / f"v{found.version}"
        files = [
            {"name": f.name, "totalBytes": f.stat().st_size, "datasetRef": ref}
            for f in sorted(folder.iterdir())
        ]
        return {"datasetFiles": files}

    async def _delete(self, call: Call) -> dict[str, Any]:
        """kd:1463-1534."""
        shutil.rmtree(self._root / self._known(call.params).slug)
        return {}

    def _metadata(self, found: Dataset) -> dict[str, Any]:
        """kd:2856-2883."""
        ref = f"{self.username}/{found.slug}"
        return {
            "id": found.dataset_id, "ref": ref, "title": found.title, "ownerName": self.username,
            "ownerRef": self.username, "isPrivate": found.is_private, "licenseName": found.licence,
            "currentVersionNumber": found.version,
        }  # fmt: skip

    def _known(self, params: dict[str, Any]) -> Dataset:
        slug = str(params.get("datasetSlug", ""))
        found = self._load(slug) if params.get("ownerSlug") == self.username else None
        if found is None:
            if self._deny_unknown:  # as for kernels; whoever asks takes any HTTP error for it (kx:5590)
                raise Refused(403, "Permission 'datasets.get' was denied")
            raise Refused(404, "Not Found")
        return found

    def _load(self, slug: str) -> Dataset | None:
        file = self._root / slug / "dataset.json"
        return Dataset(**json.loads(file.read_text())) if SLUG.fullmatch(slug) and file.exists() else None

    def _save(self, dataset: Dataset) -> None:
        file = self._root / dataset.slug / "dataset.json"
        part = file.with_suffix(".part")
        part.write_text(json.dumps(asdict(dataset)))
        part.replace(file)
