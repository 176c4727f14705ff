"""The commands ``precompute | setup | offers | doctor``. Guarantee: none of them rents anything unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from accel.cli.options import Full, Json, Provider, Sandbox


def precompute(
    corpus: Annotated[
        str, typer.Argument(help="A file or folder, as for query; or docstrings: those installed here.")
    ] = "docstrings",
    to: Annotated[
        list[str] | None,
        typer.Option("--to", "--provider", help="Only these: kaggle,local. Default: all that is free."),
    ] = None,
    sandbox: Sandbox = False, json: Json = False, full: Full = False,
    sandbox_url: Annotated[
        list[str] | None, typer.Option(help="A sandbox that runs already, as NAME=URL; uses your keys.")
    ] = None,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Passages of one job; any gives the same index.")
    ] = 2048,
    keep_hours: Annotated[
        float | None, typer.Option(min=0, help="Free GPU hours to leave; default: a tenth of a week's.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="The texts are yours to publish: Kaggle needs no consent.")
    ] = False,
) -> None:  # fmt: skip
    """Embed and index a corpus in the batch lane, in shards, over several providers at once.

    By itself it uses everything that is free, this machine among it; what is paid only where nothing else is
    free and your settings find it worth it. Whatever interrupts it, the same command goes on from there.
    Afterwards `accel query --corpus` needs to embed only the question.
    """
    from accel.cli.precomputing import run_precompute

    run_precompute(
        None if corpus == "docstrings" and not Path(corpus).exists() else Path(corpus),
        named=tuple(n.strip() for part in to or () for n in part.split(",") if n.strip()), sandbox=sandbox,
        urls=sandbox_url or (), full=full, shard=shard_size, keep_hours=keep_hours, public=public,
        as_json=json,
    )  # fmt: skip


def setup(
    provider: Annotated[str, typer.Argument(help="kaggle, runpod, vast, modal or local.")],
    test: Annotated[bool, typer.Option("--test", help="Run the smallest job there.")] = False,
    limit: Annotated[
        float | None, typer.Option(help="Dollars that the test may cost, where it costs any.")
    ] = None,
    sandbox: Sandbox = False, json: Json = False,
) -> None:  # fmt: skip
    """Walk through account, key, terms and a smallest test of one provider; what is done is ticked.

    At a terminal it asks for what is missing; elsewhere it prints it. Exit code 1 while something is left.
    """
    from accel.cli.setting_up import run_setup

    run_setup(provider, sandbox=sandbox, test=test, limit=limit, as_json=json)


def offers(
    stage: Annotated[str, typer.Option(help="embed, search, rerank or answer.")] = "embed",
    lane: Annotated[str, typer.Option(help="live or batch.")] = "batch",
    items: Annotated[int, typer.Option(min=1, help="Texts to compute.")] = 1000,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens per text.")] = 128,
    within: Annotated[
        float | None, typer.Option(help="Deadline, seconds: who would be late is unfit.")
    ] = None,
    provider: Provider = None, sandbox: Sandbox = False, json: Json = False,
) -> None:  # fmt: skip
    """What every provider would give now for a task: price, quota, seconds, cost, or why nothing."""
    from accel.cli.inspecting import show_offers

    show_offers(
        stage, lane, items=items, tokens=tokens, within=within, asked=tuple(provider or ()), sandbox=sandbox,
        as_json=json,
    )  # fmt: skip


def doctor(
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Find troubles in the ledger: all local, too dear, too slow.")
    ] = False,
    since: Annotated[str, typer.Option(help="With --diagnose, how far back: 24h, 7d, 4w.")] = "7d",
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="With --diagnose: look in the sandbox ledger.")
    ] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Check this machine, the model, the keys and every provider, and say how to mend each finding.

    With --diagnose: whether everything falls back to this machine, costs are above the budget, or questions
    take more than 5 seconds; where that comes from, and what mends it. Exit code 1 when something is found.
    """
    from accel.cli.doctoring import show_diagnosis, show_doctor

    if diagnose:
        show_diagnosis(since, sandbox=sandbox, as_json=json)
    else:
        show_doctor(as_json=json)
