from __future__ import annotations

import builtins
import re
from pathlib import Path

import pytest

import facepurify
from facepurify import errors


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_in_the_tree_and_public(name: str) -> None:
    error = getattr(errors, name)
    assert issubclass(error, errors.FacePurifyError)
    assert getattr(facepurify, name) is error


def test_the_drawing_shows_the_tree() -> None:
    drawing = re.findall(
        r"^# ([│ ]*)(?:[├└]── )?(\w+Error)(?: \((\w+)\))?", Path(errors.__file__).read_text(), re.M
    )
    assert sorted(name for _, name, _ in drawing) == errors.__all__
    parents = [errors.FacePurifyError]
    for indent, name, builtin in drawing[1:]:
        level = len(indent) // 4 + 1
        error = getattr(errors, name)
        assert parents[level - 1] in error.__bases__
        assert not builtin or issubclass(error, getattr(builtins, builtin))
        parents[level:] = [error]
