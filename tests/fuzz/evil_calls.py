"""Every public call of shmflow, read from its stub file and its sources: what fuzz_evil.py attacks.

Owns: the list of calls and of their parameters, by `ast`, so that a new call or parameter is
attacked as soon as it is written down; the few calls that no signature shows.
Does not own: what is passed (evil_objects.py), or to what (evil_scene.py).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

# What is left out of the attack, and why.
LEFT_OUT = {
    "_core._at_exit": "ends this process's topics: it is the interpreter's to call",
}
LEFT_OUT_MODULES = {
    "_errors": "its classes take what Exception takes",
}

# What users call without a signature that says so.
UNWRITTEN = (
    "Topic.__repr__",
    "Topic.__hash__",
    "Topic.__copy__",
    "Topic.__pickle__",
    "Topic.__del__",
    "Loan.__repr__",
    "Loan.__del__",
    "Message.__repr__",
    "Message.__del__",
    "Messages.__del__",
)


@dataclass(frozen=True)
class Param:
    """`how` is one of 'positional', 'keyword' (which includes what may be either) and 'rest'."""

    name: str
    annotation: str
    how: str
    required: bool


@dataclass(frozen=True)
class Call:
    """`owner` is the class, '' for a function of `module`; `kind`: method, property, function."""

    module: str
    owner: str
    name: str
    kind: str
    returns: str
    params: tuple[Param, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.owner or self.module}.{self.name}"


def text_of(node: ast.expr | None) -> str:
    return "Any" if node is None else ast.unparse(node)


def params_of(function: ast.FunctionDef | ast.AsyncFunctionDef, bound: bool) -> list[Param]:
    args = function.args
    found = []
    plain = [*args.posonlyargs, *args.args]
    first_default = len(plain) - len(args.defaults)
    for at, arg in enumerate(plain):
        if bound and at == 0:
            continue
        how = "positional" if at < len(args.posonlyargs) else "keyword"
        found.append(Param(arg.arg, text_of(arg.annotation), how, at < first_default))
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        found.append(Param(arg.arg, text_of(arg.annotation), "keyword", default is None))
    found += [Param(a.arg, text_of(a.annotation), "rest", False) for a in [args.vararg] if a]
    return found


def is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(text_of(one).split(".")[-1] == "property" for one in function.decorator_list)


def calls_of(module: str, source: str, public: set[str]) -> list[Call]:
    """What a module offers; several overloads are one call with the parameters of all."""
    found: dict[tuple[str, str], Call] = {}

    def note(owner: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        kind = "function" if not owner else "property" if is_property(function) else "method"
        params = {p.name: p for p in params_of(function, bool(owner))}
        before = found.get((owner, function.name))
        if before is not None:
            required = [{p.name for p in params.values() if p.required}]
            required.append({p.name for p in before.params if p.required})
            both = {p.name: p for p in before.params} | params
            params = {
                name: Param(name, p.annotation, p.how, name in required[0] & required[1])
                for name, p in both.items()
            }
        returns = text_of(function.returns)
        call = Call(module, owner, function.name, kind, returns, tuple(params.values()))
        if str(call) not in LEFT_OUT:
            found[owner, function.name] = call

    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in public:
            note("", node)
        elif isinstance(node, ast.ClassDef) and node.name in public:
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    is_public = not inner.name.startswith("_") or inner.name.startswith("__")
                    if is_public or module == "_core":
                        note(node.name, inner)
    return list(found.values())


def names_of(source: str) -> set[str]:
    return {
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }


def every_call(package: Path, homes: dict[str, tuple[str, ...]]) -> list[Call]:
    """Of all modules that the package takes its public names from; of `_core` all of its names,
    since unpickling and the other modules call the private ones with what users passed."""
    found = []
    for module, names in homes.items():
        if module in LEFT_OUT_MODULES:
            continue
        stub = package / f"{module}.pyi"
        source = (stub if stub.exists() else package / f"{module}.py").read_text()
        public = names_of(source) if module == "_core" else set(names)
        found += calls_of(module, source, public)
    for name in UNWRITTEN:
        owner, _, method = name.partition(".")
        found.append(Call("_core", owner, method, "unwritten", "Any"))
    return found
