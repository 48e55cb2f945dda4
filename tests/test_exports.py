"""What a module exports: all that is public in it, and nothing else is used from outside."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__"): path
    for path in sorted((ROOT / "facepurify").rglob("*.py"))
}


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def exported(module: str) -> set[str]:
    for node in parsed(module).body:
        match node:
            case ast.Assign([ast.Name("__all__")], names):
                return set(ast.literal_eval(names))
            case ast.AnnAssign(ast.Name("__all__"), value=ast.expr() as names):
                return set(ast.literal_eval(names))
    pytest.fail(f"expected an __all__ in {module}, got none")


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_listed(module: str) -> None:
    made = {
        node.name
        for node in parsed(module).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    }
    assert made <= exported(module)


@pytest.mark.parametrize("module", MODULES)
def test_only_what_is_listed_is_imported(module: str) -> None:
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.ImportFrom):
            folder = MODULES[module].relative_to(ROOT).parents[node.level - 1].parts
            parts = (*(folder if node.level else ()), *(node.module or "").split("."))
            source = "/".join(filter(None, parts))
            if source in MODULES:
                names = {name.name for name in node.names}
                modules = {name for name in names if f"{source}/{name}" in MODULES}
                assert names - modules <= exported(source), source
