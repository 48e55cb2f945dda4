"""What is said when an extra is missing."""

from __future__ import annotations

import pytest

from facepurify import MissingExtraError
from facepurify.extras import require


def test_a_missing_module_names_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r'no_such_module.*"facepurify\[train\]"'):
        require("train", "numpy", "no_such_module")


def test_nothing_is_said_when_all_are_there() -> None:
    require("cpu", "numpy", "cv2")
