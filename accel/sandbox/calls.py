"""What Kaggle's kernel calls answer. Guarantee: every field cites the SDK, or says that it is our guess.

``kk``, ``kx``: see ``sandbox.kaggle``, which carries these calls. Where no evidence exists the sandbox
is the stricter of what could be, and says so at the line.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from accel.sandbox.faults import Fault, FaultKind
from accel.sandbox.kaggle_datasets import Call, Datasets
from accel.sandbox.runner import Runner
from accel.sandbox.store import SLUG, Session, Store
from accel.sandbox.wire import Refused

KERNELS = "kernels.KernelsApiService"
GPU_SESSIONS = 2  # "Maximum batch GPU session count of 2 reached.": seen by many; kaggle-cli #185 had 4
MAX_TIMEOUT_S = 12 * 3600  # kaggle 2.2.5 cli.py:2863: "12 hours, the maximum notebook runtime"
# A source above about 1 MiB is answered with a bare 400: seen live by omnirun (backends/kaggle.py).
MAX_SOURCE_BYTES = 1 << 20
PAGE_DEFAULT, PAGE_MAX = 20, 200  # kernels output --page-size, kaggle-cli documentation, 2026-11-23


class KernelCalls:
    """The calls of one account. ``table``: "service/Method" → what answers it.

    deny_unknown: an unknown kernel is answered 403 "Permission 'kernels.get' was denied", as Kaggle
    does for a slug that does not exist (kx:6696-6703 says so too); False: 404, which is seen as well.
    """

    def __init__(self, store: Store, runner: Runner, datasets: Datasets, *, deny_unknown: bool) -> None:
        self.store, self.runner, self.deny_unknown = store, runner, deny_unknown
        self.datasets = datasets
        self.table: dict[str, Callable[[Call], Awaitable[dict[str, Any]]]] = {
            f"{KERNELS}/SaveKernel": self._save,
            f"{KERNELS}/GetKernelSessionStatus": self._status,
            f"{KERNELS}/ListKernelSessionOutput": self._output,
            f"{KERNELS}/ListKernels": self._list,
            f"{KERNELS}/DeleteKernel": self._delete,
            f"{KERNELS}/CancelKernelSession": self._cancel,
            f"{KERNELS}/GetAcceleratorQuotaStatistics": self._quota,
            "security.OAuthService/IntrospectToken": self._introspect,
            **datasets.table,
        }

    def find(self, owner: object, slug: object, label: object = "") -> Session:
        session = None
        if owner == self.store.username:
            session = self.store.find(str(slug), str(label or ""))
        if session is None:
            if self.deny_unknown:
                raise Refused(403, "Permission 'kernels.get' was denied")
            raise Refused(404, "Not Found")
        return session

    async def _save(self, call: Call) -> dict[str, Any]:
        """kk:1965-2421. A refusal is HTTP 200 with ``error`` (kx:6465-6499); the client exits 0."""
        p = call.params
        if call.fault and (text := _refusal(call.fault, self.runner.allowance_s)):
            return {"error": text}
        owner, _, slug = str(p.get("slug", "")).partition("/")
        title = str(p.get("newTitle") or slug)
        source = str(p.get("text", ""))
        if len(source.encode()) > MAX_SOURCE_BYTES:
            raise Refused(400, "Bad Request")
        if owner != self.store.username:
            raise Refused(403, "Permission 'kernels.update' was denied")
        if not SLUG.fullmatch(slug) or slugify(title) != slug or not 5 <= len(title) <= 50:
            # Kaggle takes the slug from the title and goes on (kx:6367-6377: "may result in surprising
            # behavior"); the sandbox refuses, so that nobody relies on it.
            return {"error": f"The title {title!r} does not make the slug {slug!r}."}
        if (p.get("language"), p.get("kernelType")) != ("python", "script"):
            return {"error": "This sandbox runs Python scripts only."}
        timeout = int(p.get("sessionTimeoutSeconds") or MAX_TIMEOUT_S)
        if not 0 < timeout <= MAX_TIMEOUT_S:  # kk:2017: "must be lower than the global maximum"
            return {"error": f"The session timeout is at most {MAX_TIMEOUT_S} seconds."}
        asked = [str(s) for s in p.get("datasetDataSources") or []]
        unknown = {
            "invalidDatasetSources": [s for s in asked if self.datasets.folder(s) is None],
            "invalidCompetitionSources": p.get("competitionDataSources") or [],
            "invalidKernelSources": p.get("kernelDataSources") or [],
            "invalidModelSources": p.get("modelDataSources") or [],
        }  # what Kaggle does not know it goes on without (kx:6469-6489); the sandbox has only data sets
        quick = p.get("kernelExecutionType") == "QUICK_SAVE"
        gpu = bool(p.get("enableGpu")) or str(p.get("machineShape", "")).startswith("Nvidia")
        if gpu and not quick and (refusal := self._gpu_refusal()):
            return {"error": refusal}
        session = self.store.add(
            source, slug=slug, title=title, language="python", kernel_type="script", gpu=gpu,
            internet=bool(p.get("enableInternet", True)), is_private=bool(p.get("isPrivate", True)),
            timeout_s=float(timeout), state="NEW_SCRIPT" if quick else "QUEUED",
            sources=[s for s in asked if s not in unknown["invalidDatasetSources"]],
        )  # fmt: skip
        if not quick:
            self.runner.submit(session)
        return {
            "ref": f"/code/{owner}/{slug}",
            "url": f"{call.base}/code/{owner}/{slug}",
            "versionNumber": session.version,
            "kernelId": session.kernel_id,
            **{name: sources for name, sources in unknown.items() if sources},
        }

    def _gpu_refusal(self) -> str:
        if self.runner.gpu_sessions >= GPU_SESSIONS:
            return f"Maximum batch GPU session count of {GPU_SESSIONS} reached."
        used, _, _ = self.store.week(self.runner.week_s)
        if used + self.runner.reserved_s >= self.runner.allowance_s:
            return _quota_words(self.runner.allowance_s)
        return ""

    async def _status(self, call: Call) -> dict[str, Any]:
        """kk:848-890; enums travel by name (kaggle_object.py:36-77)."""
        p = call.params
        session = self.find(p.get("userName"), p.get("kernelSlug"), p.get("versionLabel"))
        failure = {"failureMessage": session.failure} if session.failure else {}
        return {"status": session.state, **failure}

    async def _output(self, call: Call) -> dict[str, Any]:
        """kk:1616-1675. Files and log appear when the session is over."""
        p = call.params
        session = self.find(p.get("userName"), p.get("kernelSlug"), p.get("versionLabel"))
        if session.active:
            return {"files": [], "log": ""}
        names, token = _page(self.store.outputs(session), p, PAGE_MAX)
        version = f"v{session.version}"
        files = [
            {
                "url": f"{call.base}/_files/{self.store.sign(session.slug, version, name)}"
                       f"/{session.slug}/{version}/{quote(name)}",
                "fileName": name,
            }
            for name in names
        ]  # fmt: skip
        log = json.dumps(self.store.log(session))
        return {"files": files, "log": log, **({"nextPageToken": token} if token else {})}

    async def _list(self, call: Call) -> dict[str, Any]:
        """kk:1676-1964. Only this account's kernels exist here, whatever the group asked for."""
        p = call.params
        wanted = str(p.get("search", "")).lower()
        found = [s for s in self.store.latest() if wanted in s.slug or wanted in s.title.lower()]
        if p.get("user"):
            found = [s for s in found if p["user"] == self.store.username]
        shown, token = _page(found, p, 100)  # kx:6053-6054
        return {"kernels": [self._metadata(s) for s in shown], "nextPageToken": token}

    def _metadata(self, session: Session) -> dict[str, Any]:
        """kk:2713-2733."""
        return {
            "id": session.kernel_id,
            "ref": f"{self.store.username}/{session.slug}",
            "title": session.title,
            "author": self.store.username,
            "slug": session.slug,
            "lastRunTime": _instant(session.started_at or session.created_at),
            "language": session.language,
            "kernelType": session.kernel_type,
            "isPrivate": session.is_private,
            "enableGpu": session.gpu,
            "enableInternet": session.internet,
            "totalVotes": 0,
            "currentVersionNumber": session.version,
        }

    async def _delete(self, call: Call) -> dict[str, Any]:
        """kk:322-396. Ends the kernel's sessions here; whether Kaggle does so is not documented."""
        session = self.find(call.params.get("userName"), call.params.get("kernelSlug"))
        await self.runner.stop(session.slug)
        self.store.delete(session.slug)
        return {}

    async def _cancel(self, call: Call) -> dict[str, Any]:
        """No answer carries a session id ("not currently exposed outside the server", kaggle-cli
        pull request 1174, 2026-08-11), so that no client can name one: always denied."""
        raise Refused(403, "Permission 'kernelSessions.cancel' was denied")

    async def _quota(self, call: Call) -> dict[str, Any]:
        """kk:6-113 and 521-588. Written by hand: the SDK's own serialiser drops days
        (kaggle_object.py:167-172)."""
        used, refresh, ever = self.store.week(self.runner.week_s)
        gpu = {
            "timeUsed": _duration(used),
            "timeReserved": _duration(self.runner.reserved_s),
            "totalTimeAllowed": _duration(self.runner.allowance_s),
            "minimumTimeAllowed": _duration(self.runner.allowance_s),
            "hasEverRun": ever or self.runner.gpu_sessions > 0,
        }
        tpu = {"timeUsed": "0s", "timeReserved": "0s", "totalTimeAllowed": "72000s"}  # 20 h a week
        return {"quotaRefreshTime": _instant(refresh), "gpuQuota": gpu, "tpuQuota": tpu}

    async def _introspect(self, call: Call) -> dict[str, Any]:
        """kagglesdk/security/types/oauth_service.py:1136-1141; a wrong token is not active (RFC 7662,
        and kx:1353 asks for ``active``)."""
        given = str(call.params.get("token", ""))
        if not hmac.compare_digest(given.encode(), self.store.token.encode()):
            return {"active": False}
        return {"active": True, "username": self.store.username}


def slugify(title: str) -> str:
    """Lower case, runs of anything else than letters and digits become one dash (kk:1973-1976)."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _refusal(fault: Fault, allowance_s: float) -> str:
    match fault.kind:
        case FaultKind.REFUSE_PUSH:
            return fault.text or "Kernel push refused."
        case FaultKind.SESSION_COUNT:
            return f"Maximum batch GPU session count of {GPU_SESSIONS} reached."
        case FaultKind.QUOTA_EXHAUSTED:
            return _quota_words(allowance_s)
    return ""


def _quota_words(allowance_s: float) -> str:
    """Kaggle's words, as many logs of its users in 2026 have them."""
    return f"Maximum weekly GPU quota of {allowance_s / 3600:.2f} hours reached."


def _page(items: list[Any], params: dict[str, Any], largest: int) -> tuple[list[Any], str]:
    """One page of ``items`` and the next token, "" at the end."""
    size = int(params.get("pageSize") or PAGE_DEFAULT)
    token = str(params.get("pageToken") or "")
    if not 1 <= size <= largest or not re.fullmatch(r"\d{0,9}", token):
        raise Refused(400, "Bad Request")
    start = int(token) if token else (max(1, int(params.get("page") or 1)) - 1) * size
    end = start + size
    return items[start:end], str(end) if end < len(items) else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.3f}s"


def _instant(epoch: float) -> str:
    text = datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
