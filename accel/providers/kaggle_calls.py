"""Kaggle's calls, one method each, as plain values. Guarantee: an answer that says nothing raises.

Synchronous; ``providers.kaggle`` runs them off the event loop and decides what they mean.
``kk`` = kagglesdk 0.1.37, kagglesdk/kernels/types/kernels_api_service.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from accel.core.errors import (
    BadOutput,
    JobFailed,
    NoCapacity,
    ProviderError,
    QuotaExhausted,
    Rejected,
    Unreachable,
)
from accel.core.lease import Intent
from accel.providers.base import Fetched, JobState, Progress
from accel.providers.kaggle_client import NAME, KaggleClient, KaggleCredentials

MACHINE_SHAPE = "NvidiaTeslaT4"
PAGE_OUTPUT, PAGE_LIST = 200, 100  # largest page sizes; the second: kaggle_api_extended.py:6053
MAX_PAGES, MAX_FILES = 100, 2000
STATES = {  # kagglesdk 0.1.37, kernels_enums.py:31-38
    "QUEUED": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "COMPLETE": JobState.DONE,
    "ERROR": JobState.FAILED,
    "CANCEL_REQUESTED": JobState.RUNNING,
    "CANCEL_ACKNOWLEDGED": JobState.CANCELLED,
    "NEW_SCRIPT": JobState.FAILED,  # saved, and never run
}


@dataclass(frozen=True, slots=True)
class Quota:
    """The week's GPU seconds, left and in all, and when the next week begins (UTC), if it is told."""

    left_s: float
    total_s: float
    resets_at: datetime | None


class KaggleCalls:
    """The calls of one account. All raise ``core.errors.ProviderError`` subclasses.

    ``NotFound`` from ``status`` and ``output`` means that Kaggle does not show the kernel.
    """

    def __init__(
        self, credentials: KaggleCredentials, endpoint: str | None, timeout_s: float
    ) -> None:
        self._credentials = credentials
        self.client = self._client = KaggleClient(credentials, endpoint, timeout_s)
        self.username = self._client.username

    def quota(self) -> Quota:
        """What is left of the week's GPU hours. kk:6-113; fields only: the SDK's printing drops days."""
        answer, _ = self._client.call(
            lambda sdk: sdk.kernels.kernels_api_client.get_accelerator_quota_statistics()
        )
        gpu = answer.gpu_quota
        if gpu is None or gpu.total_time_allowed is None:
            raise Unreachable("Kaggle did not tell its GPU quota.", provider=NAME)
        nothing = timedelta()
        spent = (gpu.time_used or nothing) + (gpu.time_reserved or nothing)
        left_s = (gpu.total_time_allowed - spent).total_seconds()
        total_s = max(0.0, gpu.total_time_allowed.total_seconds())
        return Quota(max(0.0, left_s), total_s, utc(answer.quota_refresh_time))

    def push(self, intent: Intent, script: str, internet: bool, sources: Sequence[str] = ()) -> str:
        """SaveKernel (kk:1965-2421); returns "user/slug" as Kaggle named it, and "/v2" where the slug was in
        use before: two sessions of one slug are told apart by their version alone. sources: "user/slug" of
        data sets. Raises JobFailed where Kaggle knows one of them not: the session runs without it."""
        user = self._client.username()
        on_gpu = intent.offer.gpu.capability > 0

        def ask(sdk: Any) -> Any:
            from kagglesdk.kernels.types import kernels_api_service as kk

            request = kk.ApiSaveKernelRequest()
            request.slug = f"{user}/{intent.name}"
            request.new_title = intent.name  # Kaggle makes the slug from the title
            request.text, request.language, request.kernel_type = script, "python", "script"
            request.is_private = True
            request.enable_gpu, request.enable_internet = on_gpu, internet
            request.dataset_data_sources = list(sources)
            if on_gpu:
                request.machine_shape = MACHINE_SHAPE
            request.session_timeout_seconds = math.ceil(intent.lifetime_s)
            return sdk.kernels.kernels_api_client.save_kernel(request)

        answer, raw = self._client.call(ask)
        if answer.error:
            self._refused(answer.error)
        if ignored := {k: v for k, v in raw.items() if k.startswith("invalid") and "Tags" not in k and v}:
            raise JobFailed(f"Kaggle did not know {sorted(ignored)}; the run goes on without.", provider=NAME)
        if not answer.version_number and not answer.ref:
            raise Unreachable("Kaggle's answer to the push says nothing.", provider=NAME)
        # ref is "/code/user/slug"; where it is missing the slug is what we asked for
        slug = answer.ref.rsplit("/", 1)[-1] or intent.name
        version = answer.version_number or 1
        return f"{user}/{slug}" + (f"/v{version}" if version > 1 else "")

    def _refused(self, words: str) -> None:
        """Raise what Kaggle's ``error`` means: known by its words, there is no code."""
        text = self._credentials.clean(words)
        if "session count" in words.lower():
            raise NoCapacity(text, provider=NAME)
        if "quota" in words.lower():
            try:
                refresh = self.quota().resets_at
            except ProviderError:
                refresh = None
            raise QuotaExhausted(text, provider=NAME, resets_at=refresh)
        raise Rejected(text, provider=NAME)

    def status(self, remote_id: str) -> Progress:
        """GetKernelSessionStatus (kk:790-890). A missing status is the SDK's default, QUEUED."""
        user, slug, *label = remote_id.split("/")

        def ask(sdk: Any) -> Any:
            from kagglesdk.kernels.types import kernels_api_service as kk

            request = kk.ApiGetKernelSessionStatusRequest()
            request.user_name, request.kernel_slug = user, slug
            if label:  # as "v2": a bare number is not found (kaggle 2.2.5)
                request.version_label = label[0]
            return sdk.kernels.kernels_api_client.get_kernel_session_status(request)

        answer, _ = self._client.call(ask)
        state = STATES[answer.status.name]
        message = self._credentials.clean(answer.failure_message)
        if answer.status.name == "NEW_SCRIPT":
            message = message or "saved, but never run"
        return Progress(state, message if state.terminal else "")

    def own(self) -> Iterator[Any]:
        """Every own kernel (kk:1676-1964). Raises Unreachable for a listing that cannot be trusted."""
        token, pages = "", 0
        while pages == 0 or token:
            pages += 1

            def ask(sdk: Any, token: str = token) -> Any:
                from kagglesdk.kernels.types import kernels_api_service as kk
                from kagglesdk.kernels.types import kernels_enums

                request = kk.ApiListKernelsRequest()
                request.group = kernels_enums.KernelsListViewType.PROFILE
                request.sort_by = kernels_enums.KernelsListSortType.DATE_RUN
                request.page_size = PAGE_LIST
                if token:
                    request.page_token = token
                return sdk.kernels.kernels_api_client.list_kernels(request)

            answer, raw = self._client.call(ask)
            if not isinstance(raw.get("kernels"), list) or pages > MAX_PAGES:
                raise Unreachable("Kaggle's list of kernels is odd: unknown is not none.",
                                  provider=NAME)  # fmt: skip
            yield from answer.kernels
            token = str(answer.next_page_token or "")

    def is_listed(self, remote_id: str) -> bool:
        return any(k.ref.rsplit("/", 1)[-1] == remote_id.split("/")[1] for k in self.own())

    def download(self, remote_id: str, into: Path, max_bytes: int) -> Fetched:
        """ListKernelSessionOutput (kk:1528-1675), page by page, then each file."""
        user, slug, *label = remote_id.split("/")
        into.mkdir(parents=True, exist_ok=True)
        files: dict[str, Path] = {}
        left, log, token, pages = max_bytes, "", "", 0
        while pages == 0 or token:
            pages += 1

            def ask(sdk: Any, token: str = token) -> Any:
                from kagglesdk.kernels.types import kernels_api_service as kk

                request = kk.ApiListKernelSessionOutputRequest()
                request.user_name, request.kernel_slug = user, slug
                request.page_size = PAGE_OUTPUT
                if label:
                    request.version_label = label[0]
                if token:
                    request.page_token = token
                return sdk.kernels.kernels_api_client.list_kernel_session_output(request)

            answer, _ = self._client.call(ask)
            log = log or log_text(answer.log)
            for item in answer.files:
                name = flat_name(item.file_name)
                if name.lower() in {n.lower() for n in files} or len(files) >= MAX_FILES:
                    raise BadOutput(f"two files named {name}, or more than {MAX_FILES}.",
                                    provider=NAME)  # fmt: skip
                part = into / f".{name}.part"
                left -= self._client.download(item.url, part, left)
                files[name] = part.replace(into / name)
            token = str(answer.next_page_token or "")
            if pages > MAX_PAGES:
                raise BadOutput(f"a listing of more than {MAX_PAGES} pages.", provider=NAME)
        return Fetched(files, log)


def flat_name(name: str) -> str:
    """A file name without folders: "a/b" becomes "a__b". Raises BadOutput for one that is not safe."""
    parts = name.split("/")
    odd = any(p in ("", ".", "..") for p in parts) or re.search(r'[\x00-\x1f\x7f\\:*?"<>|]', name)
    flat = "__".join(parts)
    if odd or len(flat.encode("utf-8", "surrogatepass")) > 200:
        raise BadOutput(f"an output is named {name[:80]!r}, which is not safe to write.", provider=NAME)
    return flat


def log_text(log: str) -> str:
    """What a session printed, from Kaggle's JSON list of {stream_name, time, data}; else as it is."""
    try:
        events = json.loads(log)
        return "".join(str(e["data"]) for e in events)
    except (ValueError, TypeError, KeyError):
        return log


def utc(instant: datetime | None) -> datetime | None:
    """The SDK drops the "Z" of every instant (kaggle_object.py:130-140)."""
    return instant.replace(tzinfo=UTC) if instant else None
