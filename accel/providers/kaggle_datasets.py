"""Files for Kaggle's sessions, in ``/kaggle/input``. Guarantee: a file is there once, private, and whole.

Each file is a private data set of its own, named by its sha256: who wants the same bytes finds them, and
nothing is uploaded. Before anything is sent its name is held against Kaggle's rules: slug and title have 6 to
50 characters, and there is exactly one licence (kaggle 2.2.4, kaggle_api_extended.py:5565-5573).

What was seen of Kaggle, and what it means here:
- A refusal is HTTP 200 with ``error`` ("The requested title … is already in use by a dataset" where another
  process of ours was faster: then its data set is waited for), or, for a size, a data set that stays in
  creation for ever ("The size of your files is …, it exceeds the maximum of …", kaggle-cli issue 424,
  2022-2023), or none at all, and the data set never appears (private space used up, issue 284, 2020). So the
  wait for READY has an end, and each way is a typed error. Files and job stay: whoever makes room goes on.
- A data set is not shown at once, and one that does not exist is denied: "not shown" is not "failed".
- FAILED is sent once more, as a new version (``CreateDatasetVersion``).

``kd`` = kagglesdk 0.1.37, kagglesdk/datasets/types/dataset_api_service.py; states: dataset_enums.py:3-12.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from accel.core.errors import Rejected, TimedOut, Unreachable
from accel.providers.kaggle_client import NAME, KaggleClient, KaggleCredentials, NotFound
from accel.providers.kaggle_uploads import Uploads
from accel.worker.attached import digest_of

PREFIX = "accel-"
SHORTEST, LONGEST = 6, 50
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
LICENCE = "other"  # private, so that nobody is given anything; the field must be there
# All private data sets of an account together: "over 100 GB", Developing Kaggle Notebooks (Packt, 2023). What
# is left of it no call tells.
LARGEST = 100 * 10**9
READY_S, POLL_S = 1800.0, 5.0  # ours: minutes for a file of this kind, and an end for what never comes
SENDS = 3
# What the limit of ``_off`` is for: a call off the loop, with seconds
Off = Callable[..., Awaitable[Any]]


def check_names(slug: str, title: str) -> None:
    """Raises Rejected for a slug or title that Kaggle would not take; nothing is sent."""
    for what, name in (("slug", slug), ("title", title)):
        if not SHORTEST <= len(name) <= LONGEST:
            raise Rejected(
                f"{name!r} is no {what} of a data set: {len(name)} characters, Kaggle takes {SHORTEST} to "
                f"{LONGEST}.", provider=NAME,
            )  # fmt: skip
    if not SLUG.fullmatch(slug):
        raise Rejected(f"{slug!r} is no slug: lower-case letters, digits and single dashes.", provider=NAME)


class Datasets:
    """The data sets of one account. off: runs a blocking call in a thread, with a limit in seconds.

    largest: bytes of one file. ready_s, poll_s: how long READY is waited for, and how often it is asked for.
    """

    def __init__(
        self, client: KaggleClient, credentials: KaggleCredentials, uploads: Uploads, off: Off, *,
        largest: int = LARGEST, ready_s: float = READY_S, poll_s: float = POLL_S, send_s: float,
    ) -> None:  # fmt: skip
        self._client, self._credentials, self._uploads, self._off = client, credentials, uploads, off
        self._largest, self._ready_s, self._poll_s, self._send_s = largest, ready_s, poll_s, send_s
        self._ready: set[str] = set()

    async def bring(self, file: Path) -> str:
        """"user/slug" of the data set that holds ``file`` (see ``worker.attached``), once it is READY.

        Raises Rejected (size, name, FAILED twice, refused), TimedOut (never READY), Unreachable.
        """
        size = await self._off(_size, file)
        if size > self._largest:
            raise Rejected(
                f"a data set of {size:,} bytes is over Kaggle's limit of {self._largest:,}.", provider=NAME,
                hint="Push fewer passages at a time; the job is kept.",
            )  # fmt: skip
        slug = file.stem
        check_names(slug, slug)
        ref = f"{await self._off(self._client.username)}/{slug}"
        if ref in self._ready:
            return ref
        digest = await self._off(digest_of, file, limit_s=self._send_s)
        clock = asyncio.get_running_loop().time
        tries, sent, ends = 0, False, clock() + self._ready_s
        state = await self._off(self._state, ref)
        while state != "READY":
            again = state in ("FAILED", "DELETED")
            if again and (tries > 1 or state == "DELETED"):
                raise Rejected(f"Kaggle did not process the data set {slug}: {state}.", provider=NAME)
            if again or (not state and not sent):
                tries += 1
                try:
                    await self._send(ref, file, digest, version=again)
                except Unreachable:  # it may have taken effect: the next answer tells
                    if tries >= SENDS:
                        raise
                    await asyncio.sleep(self._poll_s)
                else:
                    sent, ends = True, clock() + self._ready_s
            elif clock() > ends:
                raise TimedOut(
                    f"the data set {slug} was not ready within {self._ready_s:.0f} s "
                    f"({state or 'not shown'}; private space that is used up looks like this).",
                    provider=NAME,
                )  # fmt: skip
            else:
                await asyncio.sleep(self._poll_s)
            state = await self._off(self._state, ref)
        self._ready.add(ref)
        self._uploads.forget(digest)
        return ref

    def doubt(self) -> None:
        """Kaggle did not know one of them: ask again before the next push."""
        self._ready.clear()

    async def _send(self, ref: str, file: Path, digest: str, *, version: bool) -> None:
        """Upload, and make the data set of it or, with ``version``, its next version."""
        stop = threading.Event()
        try:
            token = await self._off(self._uploads.send, file, digest, stop, limit_s=self._send_s)
        finally:
            stop.set()  # a thread cannot be cancelled: it ends with its next piece
        await self._off(self._publish, ref, token, version)
        self._uploads.forget(digest)

    # Calls, off the loop --------------------------------------------------------------------------

    def _state(self, ref: str) -> str:
        """GetDatasetStatus (kd:1927-1997): the state's name, "" for one that is not shown. A state that is
        left out is the SDK's default, NOT_YET_PERSISTED: it is waited for."""
        owner, slug = ref.split("/", 1)

        def ask(sdk: Any) -> Any:
            from kagglesdk.datasets.types import dataset_api_service as kd

            request = kd.ApiGetDatasetStatusRequest()
            request.owner_slug, request.dataset_slug = owner, slug
            return sdk.datasets.dataset_api_client.get_dataset_status(request)

        try:
            answer, _ = self._client.call(ask)
        except NotFound:
            return ""
        return str(answer.status.name)

    def _publish(self, ref: str, token: str, version: bool) -> None:
        """CreateDataset (kd:136-418) or CreateDatasetVersion (kd:471-657). Refused: 200 with ``error``."""
        owner, slug = ref.split("/", 1)

        def ask(sdk: Any) -> Any:
            from kagglesdk.datasets.types import dataset_api_service as kd

            file = kd.ApiDatasetNewFile()
            file.token = token
            if version:
                body = kd.ApiCreateDatasetVersionRequestBody()
                body.version_notes, body.delete_old_versions, body.files = "sent again", True, [file]
                again = kd.ApiCreateDatasetVersionRequest()
                again.owner_slug, again.dataset_slug, again.body = owner, slug, body
                return sdk.datasets.dataset_api_client.create_dataset_version(again)
            request = kd.ApiCreateDatasetRequest()
            request.owner_slug, request.slug, request.title = owner, slug, slug
            request.license_name, request.is_private, request.files = LICENCE, True, [file]
            return sdk.datasets.dataset_api_client.create_dataset(request)

        answer, _ = self._client.call(ask)
        if answer.error and "already in use" not in answer.error:
            raise Rejected(f"Kaggle refused the data set {slug}: {self._credentials.clean(answer.error)}",
                           provider=NAME, hint="The job and its files are kept.")  # fmt: skip


def _size(file: Path) -> int:
    return file.stat().st_size
