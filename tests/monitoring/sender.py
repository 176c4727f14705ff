"""A process that delivers alerts, started by ``test_alerts`` as ``python sender.py CONFIG`` (a JSON file).

die: "claimed" makes it kill itself, as the kernel would, when the alert is claimed and not yet sent.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from accel.core.offer import Realm
from accel.core.runtime import Runtime
from accel.ledger import Ledger
from accel.monitoring.alerts import deliver
from accel.monitoring.channels import Channel


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    if config.get("die") == "claimed":

        async def die(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        Channel.send = die  # type: ignore[assignment, method-assign]
    ledger = Ledger(Path(config["ledger"]), Realm.REAL)
    if start := config.get("start"):  # all of them at once
        Path(f"{start}.{os.getpid()}").touch()
        while not Path(start).exists():
            pass
    told = asyncio.run(deliver(ledger, Channel(SecretStr(config["webhook"])), Runtime.production()))
    sys.stdout.write(json.dumps({"sent": told.sent}))


if __name__ == "__main__":
    main()
