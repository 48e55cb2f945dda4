"""What a run trains: a small file beside its checkpoint, enough to build the network again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from facepurify.errors import DataError
from facepurify.files import atomic_path, make_folder
from facepurify.train.ais import ANALYZERS, AisNet
from facepurify.train.basis import Basis
from facepurify.train.immune import ImmuneNet
from facepurify.train.loop import CHECKPOINT, load_run
from facepurify.train.pin import SELECTORS, PinNet
from facepurify.train.recover import recover_pin, recover_uddn
from facepurify.train.uddn import SIZES, UddnNet
from facepurify.weights import read_model

__all__ = [
    "checksum_of",
    "describe_denoiser",
    "describe_run",
    "load_pin",
    "load_uddn",
    "method_of",
    "open_run",
]

MODEL = "model.json"
EIGENFACES, FRONT = "eigenfaces.npz", "front.npz"
Net = TypeVar("Net", PinNet, UddnNet)


def describe_run(folder: str | Path, method: str, **fields: str | int) -> None:
    """Notes what a run trains.

    Args:
        folder: of the run; made if it is not there.
        method: "PIN", "AIS", "UDDN" or "immune".
        **fields: what ``open_run`` builds the network from: for PIN ``eigenfaces`` (a path),
            ``luma``, ``chroma`` and ``selector``, for AIS ``memory`` too, for UDDN ``size``, for
            the immune network ``selector`` too, for either, behind a fixed projection, how many
            eigenfaces that has, ``front``; the eigenfaces of these two lie in the run's folder.

    Raises:
        DataError: the folder holds a run of another network.
    """
    path = Path(folder) / MODEL
    noted = {"method": method, **fields}
    make_folder(path.parent)
    if path.exists() and (before := json.loads(path.read_text("utf-8"))) != noted:
        raise DataError(f"expected a run of {noted} in {folder}, got one of {before}")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(noted, indent=1) + "\n", "utf-8")


def describe_denoiser(folder: str | Path, net: UddnNet) -> None:
    """Notes what a run of a denoiser or of what is built on one trains, its eigenfaces included.

    Those of a run that has begun stay as they are: its checkpoint goes on with them.

    Raises:
        DataError: the folder holds a run of another network.
    """
    fields: dict[str, str | int] = {"size": net.size}
    spaces = {}
    if isinstance(net, ImmuneNet):
        fields["selector"] = net.pin.kind
        spaces[EIGENFACES] = net.space
    if net.front is not None:
        fields["front"] = net.front.count
        spaces[FRONT] = net.front
    describe_run(folder, method_of(net), **fields)
    if not (Path(folder) / CHECKPOINT).exists():
        for name, space in spaces.items():
            space.basis().save(Path(folder) / name)


def open_run(folder: str | Path) -> PinNet | UddnNet:
    """Builds a run's network with its weights, ready to purify.

    Raises:
        DataError: the folder holds no run, or one that was described wrongly.
    """
    path = Path(folder) / MODEL
    net: PinNet | UddnNet
    try:
        noted = json.loads(path.read_text("utf-8"))
        if noted["method"] == "PIN" and noted["selector"] in SELECTORS:
            basis = Basis.load(noted["eigenfaces"]).first(noted["luma"], noted["chroma"])
            net = PinNet(basis, noted["selector"])
        elif noted["method"] == "AIS" and noted["selector"] in ANALYZERS:
            basis = Basis.load(noted["eigenfaces"]).first(noted["luma"], noted["chroma"])
            net = AisNet(basis, noted["selector"], noted["memory"])
        elif noted["method"] == "UDDN" and noted["size"] in SIZES:
            net = _denoiser(noted, folder)
        elif noted["method"] == "immune" and noted["selector"] in SELECTORS:
            pin = PinNet(Basis.load(Path(folder) / EIGENFACES), noted["selector"])
            net = ImmuneNet(_denoiser(noted, folder), pin)
        else:
            raise ValueError(f"no network known of {noted}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "expected what `python -m facepurify.train pin`, `ais`, `uddn` or `immune` notes in "
            f'{path}, such as {{"method": "UDDN", "size": "light"}}, got {error!r}'
        ) from error
    load_run(net, folder)
    return net


def _denoiser(noted: Mapping[str, Any], folder: str | Path) -> UddnNet:
    front = Basis.load(Path(folder) / FRONT) if "front" in noted else None
    return UddnNet(noted["size"], front)


def checksum_of(source: str) -> str:
    """SHA-256 of a run's checkpoint, or of the file of a shipped model's name or an ONNX file.

    Raises:
        DataError: the folder holds no run.
        ModelError: there is no such model.
    """
    if not Path(source).is_dir():
        return read_model(source).sha256
    try:
        return hashlib.sha256((Path(source) / CHECKPOINT).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"expected a run with a checkpoint in {source}, got {error}") from error


def load_uddn(source: str) -> UddnNet:
    """A denoiser from a run's folder, a shipped model's name or an ONNX file.

    Of an immune network's file it is that network's denoiser, alone; one behind a fixed projection
    comes with it. What a file takes off beyond what its denoiser finds is left behind.

    Raises:
        DataError: the folder holds no run of uddn.
        ModelError: there is no such model, or it is no UDDN.
    """
    if not Path(source).is_dir():
        net = recover_uddn(read_model(source).content)
        return net.denoiser() if isinstance(net, ImmuneNet) else net
    return _run_of(UddnNet, "uddn", source)


def load_pin(source: str) -> PinNet:
    """Selector and immune space, likewise; of an immune network's file, its own.

    Raises:
        DataError: the folder holds no run of pin.
        ModelError: there is no such model, or it is no PIN.
    """
    if not Path(source).is_dir():
        return recover_pin(read_model(source).content)
    return _run_of(PinNet, "pin", source)


def _run_of(kind: type[Net], name: str, source: str) -> Net:
    """A run of this very kind: AIS is a PIN and immune a UDDN, but begins elsewhere."""
    net = open_run(source)
    if type(net) is not kind:
        raise DataError(f"expected a run of {name}, got one of {method_of(net)}: {source}")
    return net


def method_of(net: PinNet | UddnNet) -> str:
    """The method's name, as runs and manifest have it."""
    if isinstance(net, AisNet):
        return "AIS"
    if isinstance(net, PinNet):
        return "PIN"
    return "immune" if isinstance(net, ImmuneNet) else "UDDN"
