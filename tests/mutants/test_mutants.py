"""The table of mutants is about the code as it is, the page is about the table, and every mutant dies."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from accel.simulation.invariants import NAMES
from mutants.page import PAGE, page, told
from mutants.play import ROOT, Killed, play
from mutants.table import MUTANTS, PROMISES, Mutant

NAMED = [pytest.param(m, id=m.name) for m in MUTANTS]


def functions(path: Path) -> set[str]:
    """Names of the tests in a file, those in classes included."""
    return {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)}


def test_every_promise_and_every_invariant_has_a_mutant_of_its_own() -> None:
    assert {m.promise for m in MUTANTS} == PROMISES.keys()
    assert {m.invariant for m in MUTANTS} == {0, *NAMES}
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", NAMED)
def test_it_is_about_the_code_as_it_is(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.name}: its old text is not once in {mutant.file}"
    assert mutant.new != mutant.old
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")


@pytest.mark.parametrize("mutant", NAMED)
def test_the_test_that_it_names_exists(mutant: Mutant) -> None:
    file, _, name = mutant.test.partition("::")
    assert name in functions(ROOT / file)


def test_the_page_is_in_step_with_the_table() -> None:
    """But for the seeds, which only playing the mutants tells: each is told to have died."""
    written = PAGE.read_text()
    assert told(written) == told(page(dict.fromkeys((m.name for m in MUTANTS), Killed(0, ""))))
    assert "survived" not in written


@pytest.mark.mutants
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mutant", NAMED)
def test_it_dies(mutant: Mutant) -> None:
    killed = play(mutant)
    assert killed is not None, f"{mutant.name} survived: {mutant.breaks}"
