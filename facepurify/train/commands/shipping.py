"""From a run to a file: export, fewer bits, and the choice between files."""

from __future__ import annotations

import argparse
from pathlib import Path

from facepurify.errors import OptionError
from facepurify.purifier import Purifier
from facepurify.train.ais import AisNet
from facepurify.train.basis import Basis
from facepurify.train.choose import EPS, choose, load_purifiers
from facepurify.train.commands.options import (
    Commands,
    add_faces,
    add_factors,
    add_guides,
    add_pairs,
    add_publishing,
    faces_of,
    origin_of,
    trials_of,
)
from facepurify.train.critic import AffinityCritic
from facepurify.train.export import calibrate, export_projection, export_purifier
from facepurify.train.fit_critic import CRITIC
from facepurify.train.immune import ImmuneNet
from facepurify.train.loop import CHECKPOINT, load_run
from facepurify.train.overshoot import ONCE
from facepurify.train.pin import PinNet
from facepurify.train.publish import publish_purifier
from facepurify.train.quantise import WEIGHTS, quantise
from facepurify.train.runs import load_pin, method_of, open_run
from facepurify.train.uddn import UddnNet

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Adds this module's commands."""
    sub = commands.add("export", _export, "write a run's purifier as ONNX and calibrate its score")
    add_faces(sub)
    sub.add_argument("--run", default="runs/pin", metavar="DIR", help="of pin, ais, uddn or immune")
    sub.add_argument("--denoiser", action="store_true", help="that of a run of immune, alone")
    sub.add_argument(
        "--pin", metavar="RUN|NAME|ONNX",
        help="put its projection behind a run of uddn: an immune network",
    )  # fmt: skip
    sub.add_argument(
        "--share", type=float,
        help="how much a projection takes off of what it does not keep (default: its own)",
    )  # fmt: skip
    add_factors(sub, "--overshoot", ONCE)
    sub.add_argument("--half", action="store_true", help="keep the weights in half precision")
    sub.add_argument("-o", "--out", help="(default: the method's name)")
    add_publishing(sub)

    sub = commands.add("quantise", _quantise, "write a purifier with weights of fewer bits")
    sub.add_argument("--model", default="pin", metavar="NAME|ONNX")
    sub.add_argument("--weights", choices=WEIGHTS, default="float16")
    sub.add_argument("--data", nargs="+", metavar="DIR", help="face folders, which int8 needs")
    sub.add_argument("--cache", default=".faces", metavar="DIR", help="packed pixels")
    sub.add_argument("-o", "--out", required=True, metavar="ONNX")

    sub = commands.add("project", _project, "write a fixed projection as ONNX, to compare with")
    sub.add_argument("--eigenfaces", default="eigenfaces.npz")
    sub.add_argument("--luma", type=int, default=600, help="luma eigenfaces")
    sub.add_argument("--chroma", type=int, default=200, help="chroma eigenfaces")
    sub.add_argument("-o", "--out", default="fixed.onnx")

    sub = commands.add("choose", _choose, "clean cost against strength on held-out training faces")
    add_faces(sub)
    add_guides(sub)
    sub.add_argument("--eigenfaces", help="compare with fixed projections onto these")
    sub.add_argument(
        "--model", action="append", default=[], metavar="NAME|ONNX", help="or a chain; repeat"
    )
    sub.add_argument(
        "--delivered", default="none", metavar="BASELINE",
        help="what every probe goes through first, such as jpeg90",
    )  # fmt: skip
    sub.add_argument("--eps", type=float, default=EPS, help="of the attacks, in grey levels")
    sub.add_argument(
        "--adaptive", type=int, default=0, metavar="PAIRS",
        help="of each kind for an attacker who knows the purifier",
    )  # fmt: skip
    add_pairs(sub, 1000)
    sub.add_argument("-o", "--out", default="choice", help="folder for choice.json and .png")


def _export(options: argparse.Namespace) -> None:
    origin = origin_of(options)
    net = open_run(options.run)
    if options.denoiser:
        if not isinstance(net, ImmuneNet):
            raise OptionError(f"expected a run of immune for --denoiser, got {method_of(net)}")
        net = net.denoiser()
    if options.overshoot != ONCE:
        if not isinstance(net, UddnNet):
            raise OptionError(f"expected a denoiser for --overshoot, got {method_of(net)}")
        net.overshoot(options.overshoot)
    if options.pin:
        if type(net) is not UddnNet:
            raise OptionError(f"expected a run of uddn for --pin, got {method_of(net)}")
        net = ImmuneNet(net, load_pin(options.pin)).eval()
    if options.share is not None:
        projection = net.pin if isinstance(net, ImmuneNet) else net
        if not isinstance(projection, PinNet):
            raise OptionError(f"expected a projection for --share, got {method_of(net)} alone")
        projection.take_off(options.share)
    method = method_of(net)
    critic, trained = None, Path(options.run) / CRITIC
    if isinstance(net, AisNet) and (trained / CHECKPOINT).exists():
        load_run(critic := AffinityCritic.of(net), trained)
    out = Path(options.out or f"{method.lower()}.onnx")
    faces = faces_of(options)
    faces.check_held_out()  # the score is calibrated on them
    difference = export_purifier(net, out, critic, half=options.half)
    threshold = calibrate(out, faces)
    if origin:
        publish_purifier(
            out,
            Path(options.publish),
            options.name or method.lower(),
            origin,
            method=method,
            masks=Purifier(out).info.masks,
            threshold=threshold,
            difference=difference,
        )
    print(
        f"wrote {out}: {out.stat().st_size} bytes, largest difference to torch {difference:.2g}, "
        f"score threshold {threshold:.4f} (1 % false alarms on held-out faces, in no set more)"
    )


def _quantise(options: argparse.Namespace) -> None:
    faces = faces_of(options) if options.data else None
    quantise(options.model, options.weights, options.out, faces)
    print(f"wrote {options.out}: {Path(options.out).stat().st_size} bytes")


def _project(options: argparse.Namespace) -> None:
    export_projection(
        Basis.load(options.eigenfaces).first(options.luma, options.chroma), options.out
    )
    print(f"wrote {options.out}")


def _choose(options: argparse.Namespace) -> None:
    basis = Basis.load(options.eigenfaces) if options.eigenfaces else None
    purifiers = load_purifiers(options.model)  # before the attacks, which take minutes
    trials = trials_of(options, options.eps)
    choose(
        trials,
        basis,
        purifiers,
        options.out,
        delivered=options.delivered,
        adaptive=options.adaptive,
        seed=options.seed,
    )
