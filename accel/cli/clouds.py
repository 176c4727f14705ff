"""The loopback clouds of ``--sandbox``. Guarantee: each runs as long as the command, and keeps its state.

A cloud's state lies in a folder of its own under the home folder, so that a job or a machine which an
interrupt left there is found again by the next command.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from accel import keys
from accel.core.errors import UsageError
from accel.keys import Access, ApiKey, ColabKey, KaggleKey, ModalKey


@contextlib.contextmanager
def running(names: Sequence[str], home: Path) -> Iterator[dict[str, Access]]:
    """Start the clouds of ``names`` for the time of the block: how each is reached."""
    with contextlib.ExitStack() as stack:
        yield {name: _started(stack, name, home / "sandbox" / "clouds" / name) for name in names}


def asked(names: Sequence[str]) -> tuple[str, ...]:
    """The clouds that a command needs: those asked for, or all when nobody is."""
    return tuple(n for n in CLOUDS if n in names) if names else tuple(CLOUDS)


def _started(stack: contextlib.ExitStack, name: str, folder: Path) -> Access:
    cloud = stack.enter_context(make(name, root=folder))
    return Access(KEYS[name](cloud), cloud.url)


def at(urls: Sequence[str]) -> dict[str, Access]:
    """Clouds that run already, as ``NAME=URL`` (a URL alone is Kaggle's), with the person's own keys."""
    found = {}
    for given in urls:
        name, _, url = given.partition("=") if not given.startswith("http") else ("kaggle", "", given)
        found[known(name)] = Access(keys.READERS[name](), url)
    return found


def make(name: str, **options: Any) -> Any:
    """A cloud by name, not started: a context manager, see ``sandbox.serving.Cloud``. Raises UsageError."""
    return CLOUDS[known(name)](**options)


def known(name: str) -> str:
    """``name``, if there is such a sandbox. Raises UsageError."""
    if name not in CLOUDS:
        raise UsageError(f"there is no sandbox {name!r}.", hint=f"There are: {', '.join(CLOUDS)}.")
    return name


def _kaggle(**options: Any) -> Any:
    from accel.sandbox.server import KaggleSandbox

    return KaggleSandbox(**options)


def _runpod(**options: Any) -> Any:
    from accel.sandbox.runpod import RunPodSandbox

    return RunPodSandbox(**options)


def _vast(**options: Any) -> Any:
    from accel.sandbox.vast import VastSandbox

    return VastSandbox(**options)


def _modal(**options: Any) -> Any:
    from accel.sandbox.modal import ModalSandbox

    return ModalSandbox(**options)


def _colab(**options: Any) -> Any:
    from accel.sandbox.colab import ColabSandbox

    return ColabSandbox(**options)


CLOUDS: dict[str, Callable[..., Any]] = {
    "kaggle": _kaggle, "runpod": _runpod, "vast": _vast, "modal": _modal, "colab": _colab,
}  # fmt: skip


def _plain(cloud: Any) -> keys.Key:
    return ApiKey(key=SecretStr(cloud.key))


# the key that a started cloud takes
KEYS: dict[str, Callable[[Any], keys.Key]] = {
    "kaggle": lambda cloud: KaggleKey(username=cloud.username, key=SecretStr(cloud.key)),
    "runpod": _plain,
    "vast": _plain,
    "colab": lambda cloud: ColabKey(token=SecretStr(cloud.key)),
    "modal": lambda cloud: ModalKey(token_id=cloud.token_id, token_secret=SecretStr(cloud.token_secret)),
}
