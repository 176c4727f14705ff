"""``accel offers | doctor | explain | evaluate``. Guarantee: looking changes nothing."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from accel import __version__, config, contract, environment, keys
from accel.cli import terminal
from accel.cli.pushing import open_pushing
from accel.core.errors import AccelError, ModelError, UsageError
from accel.core.offer import Offer, Realm, Unfit
from accel.core.task import Lane, Need, Size, Spec, Stage, Task
from accel.fleet.roster import ADAPTERS

if TYPE_CHECKING:
    from accel.ledger import Ledger

LIVE_STAGES = ("embed", "search", "rerank", "answer")
Check = tuple[str, bool | None, str]


def show_offers(
    stage: str, lane: str, *, items: int, tokens: int, asked: tuple[str, ...], sandbox: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Rank what every provider would give for a task of this size, and show it all."""
    if stage not in LIVE_STAGES:
        raise UsageError(f"there is no stage {stage!r}.", hint=f"There are: {', '.join(LIVE_STAGES)}.")
    if lane not in tuple(Lane):
        raise UsageError(f"there is no lane {lane!r}.", hint="There are: live, batch.")
    from accel.stages.embed import default_spec

    spec = default_spec() if stage == "embed" else Spec(Stage(stage))
    need = Need(spec.stage, Lane(lane), spec.numerics)
    task = Task("offers", Lane(lane), spec, Size(items, tokens=items * tokens), need)
    with open_pushing(asked, sandbox=sandbox, attended=True) as session:  # a person looks; nothing is begun
        answers, route = session.preview(task)
        realm = session.accelerator.realm
    if as_json:
        terminal.print_json({"realm": realm.value, **contract.route_json(route)})
        return
    terminal.show_route(route, f"{items:,} × {stage}, {lane} lane · realm {realm}")
    for answer in answers:
        if isinstance(answer, Offer):
            left = answer.quota_left_s
            quota = f" · {left / 3600:.1f} GPU hours left" if left is not None else ""
            rate = "free" if answer.rate.free else f"{terminal.dollars(answer.rate.nano_per_hour)}/h"
            terminal.console().print(
                f"{answer.provider}: {rate}, as of {answer.rate.as_of} ({answer.rate.source}){quota}"
            )


def show_doctor(*, as_json: bool) -> None:
    """Every check with what to do about it. Exit code 1 when one that matters failed."""
    checks = [*_machine(), *_model(), *_keys(), *_providers(), *_left_behind()]
    if as_json:
        terminal.print_json(
            {"checks": [{"what": w, "ok": fine, "remark": remark} for w, fine, remark in checks]}
        )
    else:
        terminal.console().print(terminal.checks_table(checks))
    if any(fine is False for _, fine, _ in checks):
        raise AccelError("something needs mending: see the lines marked !! above.")


def _machine() -> list[Check]:
    card, home = environment.gpu(), environment.workdir()
    free = shutil.disk_usage(home).free >> 30
    gpu = f"{card.count}× {card.name}" if card.capability else "none: everything runs on the CPU"
    checks: list[Check] = [
        ("accel", True, f"{__version__}, {environment.commit()}, Python {platform.python_version()}"),
        ("machine", True, f"{environment.platform()}: {environment.cores()} cores, {environment.cpu_name()}"),
        ("GPU", True if card.capability else None, gpu),
        ("home", free >= 2, f"{home}: {free} GiB free" + ("" if free >= 2 else "; ACCEL_HOME moves it")),
    ]
    try:
        config.load_settings()
        found = config.settings_file()
        checks.append(("settings", True, f"{found}" if found.exists() else f"none yet ({found})"))
    except AccelError as bad:
        checks.append(("settings", False, str(bad)))
    return checks


def _model() -> list[Check]:
    from accel.stages.embed import default_spec, load_encoder

    spec = default_spec()
    try:
        encoder = load_encoder(spec)
    except ModelError as bad:
        return [("model", False, str(bad))]
    return [("model", True, f"{spec.model}, {encoder.spec.numerics}, weights sha256 {spec.revision[:12]}…")]


def _keys() -> list[Check]:
    adapters = tuple(ADAPTERS)  # the others are read and checked for form, and have no adapter yet
    try:
        have = keys.configured()
    except AccelError as bad:
        return [("keys", False, str(bad))]
    return [
        (
            f"key: {name}",
            True if have[name] and name in adapters else None,
            ("set" if have[name] else f"none; set {variable}")
            + ("" if name in adapters else "; accel has no adapter for it yet"),
        )
        for name, variable in keys.VARIABLES.items()
    ]


def _providers() -> list[Check]:
    checks: list[Check] = []
    try:
        with open_pushing(sandbox=False) as session:
            for lane in Lane:
                for answer in session.offers(Need(Stage.EMBED, lane)):
                    what = f"{answer.provider}, {lane}"
                    if isinstance(answer, Unfit):
                        checks.append((what, None, answer.reason))
                    else:
                        checks.append((what, True, f"{answer.gpu.count}× {answer.gpu.name}"))
    except AccelError as bad:
        checks.append(("providers", False, str(bad)))
    return checks


def _left_behind() -> list[Check]:
    checks: list[Check] = []
    for realm in (Realm.REAL, Realm.SANDBOX):
        ledger = existing_ledger(realm)
        if ledger is None:
            continue
        from accel.ledger import jobs

        waiting, leases = jobs.unfinished(ledger), ledger.open_leases()
        option = " --sandbox" if realm is Realm.SANDBOX else ""
        remark = f"{len(waiting)} unfinished jobs, {len(leases)} open leases, {ledger.held()} holds"
        if waiting:
            remark += f"; carry on with: accel push --resume{option}"
        checks.append((f"ledger, {realm}", not waiting, remark))
        ledger.close()
    return checks


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
