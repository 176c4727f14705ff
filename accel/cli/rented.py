"""The commands of rented machines. Guarantee: only ``reap --yes`` ends anything. See ``renting``."""

from __future__ import annotations

from typing import Annotated

import typer

from accel.cli.options import Json, Sandbox


def leases(
    everything: Annotated[bool, typer.Option("--all", help="Also what was rented and has ended.")] = False,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Look in the sandbox ledger.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """What is rented now: provider, GPU, state, age, price and its age, charged so far, when it ends
    itself."""
    from accel.cli.renting import show_leases

    show_leases(sandbox=sandbox, everything=everything, as_json=json)


def cost(
    since: Annotated[str, typer.Option(help="How far back: 24h, 7d, 4w. Default: this month.")] = "",
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Look in the sandbox ledger.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """What was spent and is held, billed against estimated, by provider, stage and lease; what was avoided;
    and where the month is going.
    """
    from accel.cli.renting import show_cost

    show_cost(since, sandbox=sandbox, as_json=json)


def reap(
    yes: Annotated[bool, typer.Option("--yes", help="Do it: release, confirm and book.")] = False,
    others: Annotated[
        bool, typer.Option("--others", help="Also what bears our name and this ledger does not know: it may "
                           "be another machine's of yours.")
    ] = False,
    sandbox: Sandbox = False, json: Json = False,
) -> None:  # fmt: skip
    """Hold every provider's own list against the ledger; end what no process works with any more.

    Without --yes it only says what it would do. May be repeated, and interrupted. Exit code 1 when something
    may still run.
    """
    from accel.cli.renting import show_reap

    show_reap(yes=yes, others=others, sandbox=sandbox, as_json=json)
