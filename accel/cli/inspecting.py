"""``accel offers | explain | evaluate``. Guarantee: looking changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from accel import contract, environment
from accel.cli import terminal
from accel.cli.pushing import open_pushing
from accel.core.attempt import Route
from accel.core.errors import AccelError, UsageError
from accel.core.money import NANO, dollars
from accel.core.offer import Offer, Realm, Unfit
from accel.core.task import Lane, Need, Size, Spec, Stage, Task

if TYPE_CHECKING:
    from accel.ledger import Ledger

LIVE_STAGES = ("embed", "search", "rerank", "answer")
BYTES_PER_TOKEN = 4  # of English text, roughly: what is sent there


def show_offers(
    stage: str, lane: str, *, items: int, tokens: int, within: float | None, asked: tuple[str, ...],
    sandbox: bool, as_json: bool,
) -> None:  # fmt: skip
    """Rank what every provider would give for a task of this size, and show it all.

    within: deadline, seconds. Raises UsageError for what cannot be asked.
    """
    if stage not in LIVE_STAGES:
        raise UsageError(f"there is no stage {stage!r}.", hint=f"There are: {', '.join(LIVE_STAGES)}.")
    if lane not in tuple(Lane):
        raise UsageError(f"there is no lane {lane!r}.", hint="There are: live, batch.")
    if within is not None and not 0 < within < math.inf:
        raise UsageError(f"--within must be a positive number of seconds, not {within}.")
    from accel.stages.embed import default_spec

    spec = default_spec() if stage == "embed" else Spec(Stage(stage))
    need = Need(spec.stage, Lane(lane), spec.numerics)
    size = Size(items, tokens=items * tokens, bytes=items * tokens * BYTES_PER_TOKEN)
    task = Task("offers", Lane(lane), spec, size, need, within_s=within)
    with open_pushing(asked, sandbox=sandbox, attended=True) as session:  # a person looks; nothing is begun
        answers, route = session.preview(task)
        realm = session.accelerator.realm
    if as_json:
        terminal.print_json({"realm": realm.value, "within_s": within, **contract.route_json(route)})
        return
    late = "" if within is None else f" within {within:g} s"
    title = f"{items:,} × {stage}, {tokens} tokens each, {lane} lane{late} · realm {realm}"
    _show_offers(route, title)
    _show_prices(answers)


def _show_offers(route: Route, title: str) -> None:
    """Best first, what each would take and cost; then who cannot, and why."""
    out = terminal.console()
    out.print(Text(title, style="bold"))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for name in ("", "provider", "gpu"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=18)
    for name in ("price/h", "quota", "wait", "cold", "work", "total", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for place, s in enumerate(route.ranked):
        offer, t = s.offer, s.estimate.timing
        left = "" if offer.quota_left_s is None else f"{offer.quota_left_s / 3600:.1f} h"
        table.add_row(
            "→" if place == 0 else "", offer.provider, f"{offer.gpu.count}×{offer.gpu.name}",
            "free" if offer.rate.free else dollars(offer.rate.nano_per_hour), left, terminal.ms(t.wait_s),
            terminal.ms(t.cold_s), terminal.ms(t.transfer_s + t.compute_s), terminal.ms(t.total_s),
            _cost(s.estimate.cost.amount),
        )  # fmt: skip
    if route.ranked:
        out.print(table)
        first = route.ranked[0]
        out.print(Text(f"first, because: {first.why}", style="dim"))
    else:
        out.print("nobody can do it now.")
    if route.refused:
        unfit = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
        unfit.add_column(no_wrap=True)
        unfit.add_column(no_wrap=True)
        unfit.add_column(ratio=1, overflow="fold")
        for r in route.refused:
            unfit.add_row("✗", r.provider, Text(r.reason, style="dim"))
        out.print(unfit)


def _cost(amount: int) -> str:
    """An estimate in dollars, to three figures; ``--json`` has it exactly."""
    return f"${amount / NANO:.3g}"


def _show_prices(answers: Sequence[Offer | Unfit]) -> None:
    """Where each price is from, and of what day."""
    out = terminal.console()
    for offer in [a for a in answers if isinstance(a, Offer) and not a.rate.free]:
        told = f"{offer.provider}'s price: {offer.rate.source}, as of {offer.rate.as_of}"
        out.print(Text(told, style="dim"))


def show_explanation(ident: str | None, *, replay: bool, realm: Realm, as_json: bool) -> None:
    """Show the decisions behind an id, and with ``replay`` rank each again."""
    from accel.ledger import decisions
    from accel.routing import Inputs, same
    from accel.routing import replay as rank_again

    ledger = existing_ledger(realm)
    wanted = ident or (decisions.latest(ledger) if ledger else None)
    if ledger is None or wanted is None:
        raise UsageError(f"nothing was decided in the {realm} realm yet.", hint='Try: accel query "…"')
    found = decisions.find(ledger, wanted)
    again = [not replay or same(rank_again(ledger.load(Inputs, d.inputs)), d.route) for d in found]
    if as_json:
        terminal.print_json(
            {
                "realm": realm.value,
                "decisions": [
                    {"id": d.id, "parent": d.parent, **contract.route_json(d.route)}
                    | ({"replayed_same": ok} if replay else {})
                    for d, ok in zip(found, again, strict=True)
                ],
            }
        )
    else:
        shown: set[str] = set()
        for d, ok in zip(found, again, strict=True):
            told = "" if not replay else " · replayed: same route" if ok else " · replayed: ANOTHER ROUTE"
            terminal.show_route(d.route, f"{d.task_id} · realm {realm}{told}", shown, terms=True)
    ledger.close()
    if not all(again):
        raise AccelError("a logged decision did not replay to the same route.")


def existing_ledger(realm: Realm) -> Ledger | None:
    """The ledger of a realm where anything happened yet; none is made for looking."""
    from accel.ledger import Ledger

    path = environment.workdir() / realm.value / "ledger.sqlite3"
    return Ledger(path, realm) if path.exists() else None


def show_evaluation(folder: Path, *, as_json: bool) -> None:
    """Measure a test collection and show nDCG@10 per stage."""
    from accel.experiments.evaluate import evaluate

    with terminal.progress("encoding documents") as told:
        found = evaluate(folder, progress=told)
    if as_json:
        terminal.print_json(
            {
                "collection": found.collection, "documents": found.documents, "split": found.split,
                "spec": found.spec.fields(), "encode_s": found.encode_s, "device": environment.cpu_name(),
                "stages": [
                    {"stage": s.stage, "ndcg_at_10": s.value, "queries": s.n, "seconds": s.seconds}
                    for s in found.stages
                ],
            }
        )
        return
    out = terminal.console()
    out.print(f"{found.collection}, {found.split}: {found.documents:,} documents, exact search, realm real")
    for s in found.stages:
        out.print(f"  {s.stage:<10} nDCG@10 {s.value:.4f}   n={s.n}, {s.seconds:.1f} s")


def show_answerability(name: str, *, as_json: bool) -> None:
    """Put a committed question set to the docstring corpus; show both error rates."""
    from accel.experiments.answerable import measure, read_questions
    from accel.session import Hooks, open_query_session
    from accel.stages.embed import load_encoder
    from accel.stages.rerank import load_reranker

    questions = read_questions(name)
    with (
        terminal.progress("reading") as reading,
        terminal.progress("embedding") as embedding,
        open_query_session(hooks=Hooks(reading, embedding, terminal.say)) as session,
    ):
        assert session.processor is not None
        index = session.processor.index
    encoder = load_encoder(index.spec)
    with terminal.progress("asking") as told:
        reranker = load_reranker(None, "cpu", encoder)
        found = measure(questions, index, encoder, reranker, progress=told)
    yes, no = len(found.answerable), len(found.unanswerable)
    if as_json:
        terminal.print_json(
            {
                "questions": name, "passages": found.passages, "threshold": found.threshold,
                "answerable": yes, "unanswerable": no, "false_nothing": found.false_nothing,
                "false_answers": found.false_answers, "hit_at_1": found.hit_at(1),
                "hit_at_10": found.hit_at(10), "seconds": found.seconds, "realm": Realm.REAL.value,
                "wrong": [j.question.id for j in found.judged if j.wrong],
            }
        )
        return
    out = terminal.console()
    out.print(f"{name}: {found.passages:,} passages, evidence threshold {found.threshold}, realm real")
    out.print(f'  "nothing relevant" although there was   {found.false_nothing:6.1%}   n={yes}')
    out.print(f"  an answer although there was none       {found.false_answers:6.1%}   n={no}")
    out.print(f"  an expected page among the first 1, 10  {found.hit_at(1):6.1%}, {found.hit_at(10):.1%}")
