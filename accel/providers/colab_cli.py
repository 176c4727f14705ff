"""Colab by Google's own command line, for an account that the API is not open to. Guarantee: every command of
it ends by our deadline, and a session that it cannot name is never taken for none.

google-colab-cli 0.7.5 (Python 3.12 or newer, in an environment of its own; COLAB_CLI names its program). What
it is, and what that means here:
- ``exec`` exits 0 on exceptions, and is never used. ``run --keep`` makes a session, runs one script and tells
  its exit code (commands/run.py:250-420): that is ``create``, and the script leaves the job running.
- ``--timeout`` is no deadline (its wait goes on while messages come): ours ends the process, and then the
  session by ``stop``.
- Session names are kept on this machine only (state.py): a session of which the answer was lost shows as
  "[?]" (commands/session.py:244-262), and what is listed is then unknown.
- The kernel is idle while the job runs in a process of its own, so that a job lasts an hour at most here.
- Accelerators are not told: only the T4 is offered. An unknown ``--gpu`` would be an A100 (session.py:85).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from accel.core.errors import NoCapacity, Preempted, ProviderError, Rejected, Unreachable, UsageError
from accel.core.lease import Intent, Lease, Released, Unconfirmed, Unknown
from accel.core.offer import Offer, Realm, Unfit
from accel.core.runtime import Runtime
from accel.core.task import Need
from accel.providers import terms
from accel.providers.base import Fetched, JobState, Progress
from accel.providers.colab import COLD_PRIOR_S, IDLE_ALLOWANCE_S, NAME_RULE, PREFIX, alone, bundle_files
from accel.providers.colab_auth import NAME
from accel.providers.colab_calls import Account
from accel.providers.colab_jupyter import ROOT, brought_home, read_state
from accel.providers.colab_machine import STATES
from accel.providers.colab_offers import UNITS, UnitRate, offered, one_question, unfit
from accel.providers.transport import NotFound
from accel.worker.kernel_job import BEGIN

MAX_LIFETIME_S = 3600.0
MAX_BUNDLE = 6 << 20  # bytes: the script goes as one message
ACCOUNT_FRESH_S = 60.0
_KEPT = ("HOME", "PATH", "LANG", "LC_ALL", "GOOGLE_APPLICATION_CREDENTIALS", "HTTPS_PROXY", "NO_PROXY")
_LINE = re.compile(r"^\[([^\]]+)\] (\S+) \| Hardware: ", re.MULTILINE)


class ColabCliProvider:
    """See the module's guarantee. Meets ``Provider`` and ``RunsBatch``.

    program: the command, as words. config: file where it keeps its sessions. confirm: see ``ColabProvider``.
    call_s: a small command; boot_s: making a session and beginning the job on it.
    """

    name = NAME

    def __init__(
        self, *, program: Sequence[str], config: Path, runtime: Runtime, realm: Realm = Realm.REAL,
        accepted_terms: Collection[str] = (), confirm: Callable[[str], bool] | None = None,
        units: Mapping[str, UnitRate] = UNITS, cold_s: float = COLD_PRIOR_S, call_s: float = 60.0,
        boot_s: float = 600.0,
    ) -> None:  # fmt: skip
        self.realm: Realm = realm
        self._program, self._config, self._runtime = tuple(program), config, runtime
        self._accepted, self._confirm, self._units = accepted_terms, confirm, units
        self._cold_s, self._call_s, self._boot_s = cold_s, call_s, boot_s
        self._account: tuple[float, Account] | None = None
        self._begun: set[str] = set()

    # --- Provider

    async def probe(self, need: Need) -> Offer | Unfit:
        """Terms, then what is left and what runs: one command, and another a minute."""
        now = self._runtime.now()
        try:
            if refusal := terms.check(NAME, need, self._accepted):
                return Unfit(NAME, self.realm, str(refusal).removeprefix(f"{NAME}: "), now)
            if reason := unfit(need):
                return Unfit(NAME, self.realm, reason, now)
            account = await self._known_account()
            if not account.unattended and self._confirm is None:
                return Unfit(NAME, self.realm, alone(account), now, mendable=True)
            busy = tuple(await self._sessions())
            return offered(account, busy, need, self.realm, now, cold_s=self._cold_s, units=self._units)
        except ProviderError as error:
            return Unfit(NAME, self.realm, str(error).removeprefix(f"{NAME}: "), now, mendable=True)
        except Exception as error:  # probe never raises, whatever breaks
            return Unfit(NAME, self.realm, f"cannot be asked: {type(error).__name__}", now)

    async def create(self, intent: Intent) -> Lease:
        """Make a session named as the intent and begin the job on it. After Unreachable it may exist."""
        self._check(intent)
        account = await self._known_account()
        if not account.unattended and self._confirm is None:
            raise Rejected(f"{alone(account)}.", provider=NAME)
        question, ask = one_question(account, intent), None if account.unattended else self._confirm
        if ask is not None and not await self._runtime.offload(ask, question):
            raise Rejected("you said no to a runtime on the free tier.", provider=NAME)
        try:
            script = await self._runtime.offload(launcher, intent)
        except UsageError as bad:
            raise Rejected(bad.message, provider=NAME, hint=bad.hint) from bad
        with tempfile.TemporaryDirectory(prefix="accel-colab-") as folder:
            path = Path(folder) / "begin.py"
            await self._runtime.offload(path.write_text, script)
            try:
                code, said = await self._run(
                    "run", "-s", intent.name, "--gpu", "T4", "--keep", "--timeout", f"{self._boot_s:.0f}",
                    str(path), limit_s=self._boot_s,
                )  # fmt: skip
            except Unreachable:
                with contextlib.suppress(ProviderError):
                    await self._run("stop", "-s", intent.name)
                raise
        if "Allocation refused" in said:
            raise NoCapacity(_short(said), provider=NAME)
        if "rejected accelerator" in said:
            raise Rejected(_short(said), provider=NAME)
        if code != 0:
            raise Unreachable(f"its command line failed: {_short(said)}", provider=NAME)
        self._begun.add(intent.name)
        return self._lease(intent)

    async def release(self, lease: Lease) -> Released | Unconfirmed:
        """Stop the session; ``Released`` once it, and any without a name, is not listed."""
        try:
            await self._run("stop", "-s", lease.name)
            left = await self._sessions()
        except ProviderError as error:
            return Unconfirmed(lease.id, str(error), lease.ends_by)
        if {lease.name, "?"} & set(left):
            reason = "Colab's command line still lists it, or one without a name"
            return Unconfirmed(lease.id, reason, lease.ends_by)
        self._begun.discard(lease.name)
        return Released(lease.id, f"Colab's command line lists no session {lease.name}")

    async def leases(self) -> tuple[Lease, ...] | Unknown:
        """Sessions named accel-…; ``Unknown`` while there is one without a name: it may be ours."""
        try:
            names = await self._sessions()
        except ProviderError as error:
            return Unknown(str(error))
        if "?" in names:
            return Unknown("Colab's command line lists a session that it knows no name of")
        now = self._runtime.now()
        ends_by = now + timedelta(seconds=MAX_LIFETIME_S + IDLE_ALLOWANCE_S)
        return tuple(Lease(n, NAME, self.realm, n, n, now, ends_by) for n in names if n.startswith(PREFIX))

    # --- RunsBatch

    async def find(self, intent: Intent) -> Lease | None:
        """See ``RunsBatch``. One command."""
        self._check(intent)
        names = await self._sessions()
        if intent.name in names:
            return self._lease(intent)
        if "?" in names:
            raise Unreachable("there is a session without a name, which may be this one.", provider=NAME)
        return None

    async def start(self, lease: Lease, bundle: Path | None = None) -> None:
        """Nothing: ``create`` began it."""

    async def poll(self, lease: Lease) -> Progress:
        """The job as its session tells it."""
        try:
            told = read_state(await self._read(f"{lease.name}/state.json", 1 << 20))
        except _Gone:
            if lease.name in self._begun:
                raise Preempted("Colab took the runtime away.", provider=NAME) from None
            return Progress(JobState.ABSENT)
        except NotFound:
            return Progress(JobState.QUEUED)
        self._begun.add(lease.name)
        state = STATES.get(str(told["state"]))
        if state is None:
            raise Unreachable("what its job tells cannot be read.", provider=NAME)
        return Progress(state, " ".join(str(told.get("message", "")).split())[:300])

    async def fetch(self, lease: Lease, into: Path) -> Fetched:
        """Every file of the job, checked by size and sha256."""
        told = read_state(await self._read(f"{lease.name}/state.json", 1 << 20))
        return await brought_home(lease.name, told, into, self._read, self._runtime.offload)

    async def cancel(self, lease: Lease) -> Released | Unconfirmed:
        """The same as ``release``."""
        return await self.release(lease)

    # --- the command line

    async def _known_account(self) -> Account:
        clock = asyncio.get_running_loop().time
        if self._account is None or clock() - self._account[0] > ACCOUNT_FRESH_S:
            code, said = await self._run("usage")
            found = re.search(r"Current balance: ([\d.]+) compute units", said)
            if "Warning" not in said and (code or not found):
                raise Unreachable(f"its command line does not work: {_short(said)}", provider=NAME,
                                  hint="Sign in with it once: `colab usage`.")  # fmt: skip
            self._account = clock(), Account("", frozenset({"T4"}), float(found[1]) if found else None)
        return self._account[1]

    async def _sessions(self) -> list[str]:
        code, said = await self._run("sessions")
        names = [found[1] for found in _LINE.finditer(said)]
        if code or not (names or "No active sessions found on server" in said):
            raise Unreachable(f"its list of sessions cannot be read: {_short(said)}", provider=NAME)
        return names

    async def _read(self, path: str, limit: int) -> bytes:
        name = path.partition("/")[0]
        with tempfile.TemporaryDirectory(prefix="accel-colab-") as folder:
            file = Path(folder) / "part"
            code, said = await self._run("download", "-s", name, f"{ROOT}/{path}", str(file))
            if f"Session '{name}' not found" in said:
                raise _Gone("the session is gone.", provider=NAME)
            if "not found: " in said:
                raise NotFound("it is not there.", provider=NAME)
            if code or not file.exists() or file.stat().st_size > limit:
                raise Unreachable(f"a file did not come: {_short(said)}", provider=NAME)
            return await self._runtime.offload(file.read_bytes)

    async def _run(self, *words: str, limit_s: float | None = None) -> tuple[int, str]:
        """One command: its exit code, and what it said. Raises Unreachable once our deadline has passed; then
        nothing of it runs on."""
        limit = limit_s or self._call_s
        self._config.parent.mkdir(parents=True, exist_ok=True)
        command = (*self._program, "--config", str(self._config), *words)
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT, start_new_session=True,
                env={n: os.environ[n] for n in _KEPT if n in os.environ},
            )  # fmt: skip
        except OSError as bad:
            hint = "Name the program of google-colab-cli, in its own environment (Python 3.12 or newer)."
            raise Rejected(f"COLAB_CLI cannot be run ({bad.strerror}).", provider=NAME, hint=hint) from None
        try:
            async with asyncio.timeout(limit):
                said, _ = await process.communicate()
        except TimeoutError:
            raise Unreachable(f"`colab {words[0]}` did not end within {limit:g} s.", provider=NAME) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return process.returncode or 0, said.decode("utf-8", "replace")

    def _check(self, intent: Intent) -> None:
        if not NAME_RULE.fullmatch(intent.name) or intent.bundle is None:
            raise Rejected("it runs bundles, in sessions named accel-….", provider=NAME)
        if not 1 <= intent.lifetime_s <= MAX_LIFETIME_S:
            raise Rejected("by its command line, a job lasts an hour at most.", provider=NAME)

    def _lease(self, intent: Intent) -> Lease:
        ends_by = intent.created_at + timedelta(seconds=intent.lifetime_s + IDLE_ALLOWANCE_S)
        return Lease(intent.id, NAME, self.realm, intent.name, intent.name, intent.created_at, ends_by)


class _Gone(Unreachable):
    """The command line knows no such session, or found it gone."""


def launcher(intent: Intent) -> str:
    """A script that lays the bundle's files down beside itself and begins the job. Raises UsageError."""
    assert intent.bundle is not None
    files = bundle_files(intent.bundle)
    if sum(map(len, files.values())) > MAX_BUNDLE:
        raise UsageError("the job is too large for one message to Colab.", hint="Push fewer passages.")
    laid: dict[str, Any] = {name: base64.b64encode(data).decode() for name, data in files.items()}
    return (
        f"import base64, pathlib\n_d = pathlib.Path({intent.name!r})\n_d.mkdir(exist_ok=True)\n"
        f"for _n, _b in {laid!r}.items():\n    (_d / _n).write_bytes(base64.b64decode(_b))\n"
        + BEGIN.format(folder=intent.name, seconds=f"{intent.lifetime_s:.0f}")
    )


def _short(said: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return (lines[-1] if lines else "it said nothing")[:300]
