"""What a run trains: a small file beside its checkpoint, enough to build the network again."""

from __future__ import annotations

import json
from pathlib import Path

from facepurify.errors import DataError
from facepurify.files import atomic_path
from facepurify.train.ais import ANALYZERS, AisNet
from facepurify.train.basis import Basis
from facepurify.train.loop import load_run
from facepurify.train.pin import SELECTORS, PinNet
from facepurify.train.uddn import SIZES, UddnNet

__all__ = ["describe_run", "open_run"]

MODEL = "model.json"


def describe_run(folder: str | Path, method: str, **fields: str | int) -> None:
    """Notes what a run trains.

    Args:
        folder: of the run; made if it is not there.
        method: "PIN", "AIS" or "UDDN".
        **fields: what ``open_run`` builds the network from: for PIN ``eigenfaces`` (a path),
            ``luma``, ``chroma`` and ``selector``, for AIS ``memory`` too, for UDDN ``size``.

    Raises:
        DataError: the folder holds a run of another network.
    """
    path = Path(folder) / MODEL
    noted = {"method": method, **fields}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and (before := json.loads(path.read_text("utf-8"))) != noted:
        raise DataError(f"expected a run of {noted} in {folder}, got one of {before}")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(noted, indent=1) + "\n", "utf-8")


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
            net = UddnNet(noted["size"])
        else:
            raise ValueError(f"no network known of {noted}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"expected what `python -m facepurify.train pin`, `ais` or `uddn` notes in {path}, "
            f'such as {{"method": "UDDN", "size": "light"}}, got {error!r}'
        ) from error
    load_run(net, folder)
    return net
