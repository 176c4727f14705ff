"""What a Python file says about itself. Guarantee: parsed with ``ast``, never executed.

Reads the definitions with their docstrings, the imports that re-export names, and ``__all__`` where it
is written out. Also the two static homes of compiled functions' docstrings: numpy's ``add_newdoc`` and
torch's ``add_docstr`` calls.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_FILL = re.compile(r"\{\w*\}")  # what str.format would have filled in
_MAX_SIGNATURE = 240


@dataclass(frozen=True, slots=True)
class Definition:
    """One documented thing. name: dotted within its module ("Path.glob"). call: "(pattern)" or ""."""

    name: str
    call: str
    text: str
    line: int


@dataclass(slots=True)
class Source:
    """A module's own facts. imports: local name → (module, name there); stars: modules imported by *.

    listed: ``__all__`` as far as it is written out, None where there is none. names: every top-level
    name defined here, documented or not.
    """

    text: str = ""
    definitions: list[Definition] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    listed: set[str] | None = None
    elsewhere: list[tuple[str, Definition]] = field(default_factory=list)

    @property
    def public(self) -> set[str]:
        """What ``from module import *`` would bring, of the names defined here."""
        return self.listed if self.listed is not None else {n for n in self.names if n[0] != "_"}


def read_source(path: Path, module: str) -> Source | None:
    """Parse one file; None if it cannot be read or parsed (a template, another Python's syntax)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    source = Source(text=ast.get_docstring(tree) or "")
    _Reader(source, module, path.name == "__init__.py").body(tree.body)
    return source


class _Reader:
    def __init__(self, source: Source, module: str, package: bool) -> None:
        self.source, self.module, self.package = source, module, package
        self.computed = False

    def body(self, statements: Sequence[ast.stmt]) -> None:
        for node in _flatten(statements):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.source.names.add(node.name)
                self.define(node, "")
            elif isinstance(node, ast.ImportFrom):
                self.import_from(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
                self.assign(node)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                self.call(node.value)

    def define(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, prefix: str) -> None:
        name = prefix + node.name
        if node.name.startswith("_") and prefix:
            return
        text = ast.get_docstring(node) or ""
        call = _signature(node, method=bool(prefix))
        if text:
            self.source.definitions.append(Definition(name, call, text, node.lineno))
        if isinstance(node, ast.ClassDef):
            for inner in _flatten(node.body):
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    self.define(inner, name + ".")

    def import_from(self, node: ast.ImportFrom) -> None:
        origin = node.module or ""
        if node.level:
            parts = self.module.split(".")
            base = parts[: len(parts) - node.level + (1 if self.package else 0)]
            origin = ".".join([*base, *([origin] if origin else [])])
        for alias in node.names:
            if alias.name == "*":
                self.source.stars.append(origin)
            else:
                self.source.imports[alias.asname or alias.name] = (origin, alias.name)

    def assign(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Name):
                if target.id == "__all__":
                    self.lists(node.value)
                else:
                    self.source.names.add(target.id)

    def lists(self, value: ast.expr | None) -> None:
        """Add to ``__all__``; once a part of it is computed, it is not known, and None for good."""
        added = _strings(value)
        if added is None:
            self.computed = True
        self.source.listed = None if self.computed else (self.source.listed or set()) | (added or set())

    def call(self, node: ast.Call) -> None:
        """numpy: add_newdoc(module, object, doc | (method, doc)). torch: add_docstr(object, doc)."""
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        args = node.args
        if name in {"append", "extend"} and ast.unparse(node.func) == f"__all__.{name}" and args:
            self.lists(args[0])
            return
        if name == "add_newdoc" and len(args) >= 3:
            place, thing = _literal(args[0]), _literal(args[1])
            inner, text = "", _literal(args[2])
            if isinstance(args[2], ast.Tuple) and len(args[2].elts) == 2:
                inner, text = (_literal(e) for e in args[2].elts)
            if place and thing and text:
                self.found(place, f"{thing}.{inner}".rstrip("."), text, node.lineno)
        elif name == "add_docstr" and len(args) >= 2:
            path, text = ast.unparse(args[0]), _literal(args[1])
            if text and re.fullmatch(r"[\w.]+", path) and "." in path:
                place, _, thing = path.rpartition(".")
                self.found(place, thing, text, node.lineno)

    def found(self, module: str, name: str, text: str, line: int) -> None:
        clean = _clean(text)
        head, _, rest = clean.partition("\n")
        match = re.match(r"([\w.]+)(\(.*?\))(\s*->.*)?$", head)
        call = match.group(2) if match else ""
        body = rest.strip() if match and rest.strip() else clean
        self.source.elsewhere.append((module, Definition(name, call, body, line)))


def _flatten(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements with the bodies of if, try and with in their place."""
    for node in statements:
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from _flatten(node.body)
            for handler in getattr(node, "handlers", []):
                yield from _flatten(handler.body)
            yield from _flatten(getattr(node, "orelse", []))
        else:
            yield node


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, *, method: bool) -> str:
    """"(a, b=1)" without annotations; of a class, its ``__init__``'s; "" for a property."""
    if isinstance(node, ast.ClassDef):
        inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        return _signature(inits[-1], method=True) if inits else ""
    decorators = {ast.unparse(d).split("(")[0].rpartition(".")[2] for d in node.decorator_list}
    if decorators & {"property", "cached_property", "setter", "deleter"}:
        return ""
    arguments = node.args
    for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        each.annotation = None
    for star in (arguments.vararg, arguments.kwarg):
        if star:
            star.annotation = None
    text = ast.unparse(arguments)
    if method and "staticmethod" not in decorators:
        text = re.sub(r"^(self|cls|mcs|metacls|mcls)(, (?:/, )?|$)", "", text)
    return f"({text})" if len(text) <= _MAX_SIGNATURE else f"({text[:_MAX_SIGNATURE]}…)"


def _strings(node: ast.expr | None) -> set[str] | None:
    """The strings of a list, tuple, sum of such, or one string; None if any part is not written out."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        parts = [_strings(e) for e in node.elts]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [_strings(node.left), _strings(node.right)]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    else:
        return None
    found: set[str] = set()
    for part in parts:
        if part is None:
            return None
        found |= part
    return found


def _literal(node: ast.expr) -> str:
    """The text of a string literal, of literals added up, or of ``"…".format(…)`` with its holes cut out."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _literal(node.left) + _literal(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return _FILL.sub("", _literal(node.func.value)).replace("{{", "{").replace("}}", "}")
    return ""


def _clean(text: str) -> str:
    import inspect

    return inspect.cleandoc(text).strip()
