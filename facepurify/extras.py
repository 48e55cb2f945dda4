"""Optional dependencies: one place that looks for them and names the extra to install."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from .errors import MissingExtraError

__all__ = ["import_onnxruntime", "require"]


def require(extra: str, *modules: str) -> None:
    """Check that the modules of an extra are installed, without importing them.

    Args:
        extra: Name of the extra, as in ``facepurify[extra]``.
        *modules: Top-level modules.

    Raises:
        MissingExtraError: One of them is missing.

    Example:
        >>> require("cpu", "numpy")
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"expected {', '.join(missing)} to be installed; "
            f'install it with `pip install "facepurify[{extra}]"`'
        )


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime, whichever of its builds is installed.

    Raises:
        MissingExtraError: None is, or it is broken.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError(
            'expected ONNX Runtime; install it with `pip install "facepurify[cpu]"`, '
            'or "facepurify[gpu]"'
        ) from error
