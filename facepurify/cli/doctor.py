"""``python -m facepurify doctor``: is everything here that a purifier needs?"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from .. import __version__
from ..errors import FacePurifyError, ProviderError
from ..purifier import Purifier
from ..weights import ModelFile, ShippedEntry, read_manifest, read_model, verify_recognizer
from .finding import default_pack

__all__ = ["Check", "add_arguments", "check_all", "run"]

# Distributions that install the same module over each other.
_RIVALS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "opencv": (
        "opencv-python",
        "opencv-python-headless",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    ),
}
# The library of ONNX Runtime behind each provider for GPUs.
_GPU_LIBRARIES = {
    "CUDAExecutionProvider": "onnxruntime_providers_cuda",
    "TensorrtExecutionProvider": "onnxruntime_providers_tensorrt",
}
_OPTIONAL = ("insightface", "torch", "onnx", "onnx2torch", "scikit-image", "scikit-learn")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        status: ``"ok"``, ``"warning"`` (it may bite) or ``"broken"`` (purifying fails, or a
            shipped file is not the one that was shipped).
        detail: What was found, and what to do about it.
    """

    name: str
    status: Literal["ok", "warning", "broken"]
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of lines")


def run(args: argparse.Namespace) -> int:
    """Check everything and print what was found.

    Returns:
        The exit status: 1 if anything is broken.
    """
    checks = list(check_all())
    healthy = all(check.status != "broken" for check in checks)
    if args.json:
        print(json.dumps({"healthy": healthy, "checks": [asdict(c) for c in checks]}, indent=2))
    else:
        for check in checks:
            print(f"{check.status:8}{check.name}: {check.detail}")
    return 0 if healthy else 1


def check_all() -> Iterator[Check]:
    """Look at versions, rival distributions, ONNX Runtime, insightface and the shipped models.

    Yields:
        The checks, one after the other.
    """
    yield Check("facepurify", "ok", f"{__version__} on Python {platform.python_version()}")
    yield Check("numpy", "ok", np.__version__)
    yield Check("opencv", "ok", cv2.__version__)
    for module, distributions in _RIVALS.items():
        yield from _check_rivals(module, distributions)
    yield _check_onnxruntime()
    for provider, library in _GPU_LIBRARIES.items():
        yield _check_gpu(provider, library)
    for name in _OPTIONAL:
        yield Check(name, "ok", _version(name) or "not installed (optional)")
    yield _check_pack()
    yield from _check_models()


def _check_rivals(module: str, distributions: tuple[str, ...]) -> Iterator[Check]:
    """Warn about several distributions of one module."""
    installed = [name for name in distributions if _version(name)]
    if len(installed) > 1:
        yield Check(
            f"{module} distributions",
            "warning",
            f"expected one, got {' and '.join(installed)}; they overwrite each other's files: "
            "uninstall them all, then install the one that you want",
        )


def _check_onnxruntime() -> Check:
    """Import ONNX Runtime and ask for its providers."""
    try:
        import onnxruntime
    except ImportError as error:
        return Check(
            "onnxruntime", "broken", f'{error}; install it with `pip install "facepurify[cpu]"`'
        )
    providers = ", ".join(onnxruntime.get_available_providers())
    return Check("onnxruntime", "ok", f"{onnxruntime.__version__} with {providers}")


def _check_gpu(provider: str, library: str) -> Check:
    """Start a provider for GPUs, and say why it does not."""
    try:
        import onnxruntime
    except ImportError:
        return Check(provider, "ok", "not there, as ONNX Runtime is not (optional)")
    if provider not in onnxruntime.get_available_providers():
        detail = "not in this build of ONNX Runtime (optional); for a GPU uninstall onnxruntime, "
        return Check(provider, "ok", detail + 'then `pip install "facepurify[gpu]"`')
    try:
        Purifier(providers=[provider])
    except ProviderError as error:
        folder = Path(onnxruntime.__file__).parent / "capi"
        reason = _missing(folder, library) or str(error)
        return Check(provider, "warning", f"does not start: {reason}")
    except FacePurifyError as error:
        return Check(provider, "warning", f"was not tried: {error}")
    return Check(provider, "ok", "starts")


def _missing(folder: Path, library: str) -> str | None:
    """Say what a library of ONNX Runtime misses; None if it loads, or if nobody can tell.

    ONNX Runtime itself only logs it.
    """
    for name in ("onnxruntime_providers_shared", library):
        path = next((path for path in folder.glob(f"*{name}.*")), None)
        if path is None:
            return f"{folder} has no {name}"
        try:
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        except OSError as error:
            return str(error)
    return None


def _check_pack() -> Check:
    """Look for the detector that photos need."""
    try:
        pack = default_pack()
    except FacePurifyError as error:
        return Check("insightface pack", "warning", str(error))
    return Check("insightface pack", "ok", str(pack) if pack else "none; name one with --pack")


def _check_models() -> Iterator[Check]:
    """Verify every shipped file, and purify with the recommended model."""
    try:
        manifest = read_manifest()
    except FacePurifyError as error:
        yield Check("models", "broken", str(error))
        return
    for name in manifest.models:
        yield _check_file(f"model {name}", read_model, name)
    for name in manifest.recognizers:
        yield _check_file(f"recognizer {name}", verify_recognizer, name)
    try:
        Purifier().purify(np.full((112, 112, 3), 128, np.uint8))
    except FacePurifyError as error:
        yield Check("trial run", "broken", str(error))
    else:
        yield Check("trial run", "ok", f"{manifest.default} purified a crop")


def _check_file(label: str, verify: Callable[[str], ModelFile | ShippedEntry], name: str) -> Check:
    """Verify one shipped file."""
    try:
        return Check(label, "ok", f"sha256 {verify(name).sha256}")
    except FacePurifyError as error:
        return Check(label, "broken", str(error))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
