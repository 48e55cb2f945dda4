"""Options that several commands share, and what becomes of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import nn

from facepurify.bench.recognizers import Recognizer
from facepurify.bench.run import check_names
from facepurify.errors import OptionError
from facepurify.train.attack_pack import AttackPack
from facepurify.train.basis import Basis
from facepurify.train.choose import EPS, Trial, held_out_trial
from facepurify.train.corruption import DrawNoise
from facepurify.train.faces import FaceSet, load_faces
from facepurify.train.gnr import GNR_SIZES, Gnr
from facepurify.train.loop import load_run
from facepurify.train.overshoot import Factors
from facepurify.train.publish import Origin

__all__ = [
    "Commands",
    "add_device",
    "add_faces",
    "add_factors",
    "add_gnr",
    "add_guides",
    "add_pairs",
    "add_publishing",
    "add_recipe",
    "add_space",
    "add_training",
    "attacks_of",
    "basis_of",
    "begun",
    "faces_of",
    "filled",
    "load_guides",
    "noise_of",
    "origin_of",
    "print_rows",
    "recognizer_of",
    "trials_of",
]

Net = TypeVar("Net", bound=nn.Module)


class Commands:
    """What a parser's commands are added to."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        self, name: str, run: Callable[[argparse.Namespace], None], summary: str
    ) -> argparse.ArgumentParser:
        """A command with the options that all have."""
        sub = self._commands.add_parser(
            name, help=summary, description=summary,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )  # fmt: skip
        sub.set_defaults(command=run)
        sub.add_argument("--seed", type=int, default=0, help="of everything random")
        sub.add_argument(
            "--threads", type=int, help="of torch, and of a recognizer in ONNX Runtime"
        )
        return sub


def add_faces(sub: argparse.ArgumentParser) -> None:
    """Folders of faces."""
    sub.add_argument("--data", nargs="+", required=True, metavar="DIR", help="face folders")
    sub.add_argument("--cache", default=".faces", metavar="DIR", help="packed pixels")


def add_device(sub: argparse.ArgumentParser) -> None:
    """Where torch computes."""
    sub.add_argument("--device", default="cpu", type=_device, help="of torch")


def _device(name: str) -> str:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter of a build without it
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"expected a device, got {name}: {reason}") from error
    return name


def add_guides(sub: argparse.ArgumentParser) -> None:
    """Recognizers, one or more."""
    sub.add_argument(
        "--guide", action="append", required=True, metavar="ONNX", help="recognizer; repeat"
    )


def recognizer_of(options: argparse.Namespace, path: str, device: str = "cpu") -> Recognizer:
    """That of a file, in as many threads as the command has."""
    return Recognizer.from_onnx(path, device, threads=options.threads)


def load_guides(options: argparse.Namespace) -> list[Recognizer]:
    """Those of ``add_guides``, on the device of the command, if it has one."""
    device = getattr(options, "device", "cpu")
    return [recognizer_of(options, path, device) for path in options.guide]


def add_training(
    sub: argparse.ArgumentParser, run: str, *, start: bool = True, resume: bool = True
) -> None:
    """The run's folder, attacks to train on, and where to begin.

    Args:
        sub: of the command.
        run: its default folder.
        start: whether it can begin from another run's weights.
        resume: whether it can go on where it was stopped.
    """
    sub.add_argument("--run", default=run, metavar="DIR", help="checkpoint, log, curve")
    sub.add_argument(
        "--attacks", nargs="+", default=["attacks.npz"], metavar="NPZ",
        help="what `attacks` wrote; several are put together",
    )  # fmt: skip
    if start:
        sub.add_argument("--start", metavar="RUN", help="begin from another run's weights")
    if resume:
        sub.add_argument("--resume", action="store_true", help="go on with the run")


def attacks_of(options: argparse.Namespace) -> AttackPack:
    """Those of ``add_training``, put together."""
    return AttackPack.joined([AttackPack.load(path) for path in options.attacks])


def begun(net: Net, options: argparse.Namespace) -> Net:
    """The network with the weights of ``--start``, if that was asked for."""
    if options.start:
        load_run(net, options.start)
    return net


def add_space(sub: argparse.ArgumentParser, selectors: Mapping[str, object]) -> None:
    """The immune space, and who chooses in it."""
    sub.add_argument("--eigenfaces", default="eigenfaces.npz")
    sub.add_argument("--luma", type=int, default=1200, help="luma eigenfaces to use")
    sub.add_argument("--chroma", type=int, default=200, help="chroma eigenfaces to use")
    sub.add_argument("--selector", choices=tuple(selectors), default="light")


def basis_of(options: argparse.Namespace) -> Basis:
    """The eigenfaces of ``add_space``."""
    return Basis.load(options.eigenfaces).first(options.luma, options.chroma)


def add_gnr(sub: argparse.ArgumentParser) -> None:
    """Who draws generated noise."""
    sub.add_argument("--gnr", metavar="RUN", help="draws the generated noise")
    sub.add_argument("--gnr-size", choices=tuple(GNR_SIZES), default="light")


def noise_of(options: argparse.Namespace) -> DrawNoise | None:
    """The noise of ``add_gnr``; None where no run was named."""
    if not options.gnr:
        return None
    gnr = Gnr(options.gnr_size)
    load_run(gnr, options.gnr)
    return lambda strength, generator: gnr.sample(len(strength), strength, generator)


def add_recipe(sub: argparse.ArgumentParser, recipe: Any, **choices: Sequence[str]) -> None:
    """An option for each field of a recipe, with its default."""
    for field in fields(recipe):
        name, value = "--" + field.name.replace("_", "-"), getattr(recipe, field.name)
        if isinstance(value, bool):
            sub.add_argument(name, action="store_true")
        elif isinstance(value, Factors):
            add_factors(sub, name, value)
        else:
            sub.add_argument(name, type=type(value), default=value, choices=choices.get(field.name))


def add_factors(sub: argparse.ArgumentParser, name: str, default: Factors) -> None:
    """How many times the noise that a denoiser finds is taken off."""

    def read(text: str) -> Factors:
        try:
            return Factors.read(text)
        except OptionError as error:  # argparse would leave out what it says
            raise argparse.ArgumentTypeError(str(error)) from error

    sub.add_argument(
        name, type=read, default=default, metavar="LUMA,CHROMA,COARSE",
        help="how many times the noise that a denoiser finds is taken off: one number for all, or "
        "of fine luma, fine chroma and what is coarse",
    )  # fmt: skip


def filled(recipe: Any, options: argparse.Namespace) -> Any:
    """The recipe of that class that the options of ``add_recipe`` ask for."""
    return recipe(**{field.name: getattr(options, field.name) for field in fields(recipe)})


def add_publishing(sub: argparse.ArgumentParser, name: str | None = None) -> None:
    """Where to publish a file, and what its users must know."""
    sub.add_argument("--publish", metavar="DIR", help="put it there, with a manifest entry")
    sub.add_argument("--name", default=name, help="to publish it under")
    sub.add_argument("--training-data", action="extend", nargs="+", default=[], metavar="SET")
    sub.add_argument("--licence", default="", help="what the data allows, for the manifest")


def origin_of(options: argparse.Namespace) -> Origin | None:
    """What ``add_publishing`` tells the users; None where nothing is to be published.

    Raises:
        DataError: it tells too little.
    """
    return Origin(options.training_data, options.licence) if options.publish else None


def add_pairs(sub: argparse.ArgumentParser, pairs: int, attacked: int = 200) -> None:
    """How many held-out pairs to measure with."""
    sub.add_argument("--pairs", type=int, default=pairs, help="clean pairs of each kind")
    sub.add_argument("--attacked", type=int, default=attacked, help="attacked pairs of each kind")


def faces_of(options: argparse.Namespace) -> FaceSet:
    """The faces of ``add_faces``, said in a line: whether identities are what they should be."""
    faces = load_faces(options.data, options.cache)
    print(faces.summary(), file=sys.stderr)
    return faces


def trials_of(options: argparse.Namespace, eps: float = EPS) -> list[Trial]:
    """Held-out pairs of ``add_faces`` for each guide, attacked at ``eps`` grey levels.

    Raises:
        OptionError: two guides have the same name.
    """
    guides = load_guides(options)
    check_names("guides", guides)
    faces = faces_of(options)
    return [
        held_out_trial(
            faces,
            guide,
            pairs=options.pairs,
            attacked=options.attacked,
            eps=eps,
            seed=options.seed,
        )
        for guide in guides
    ]


def print_rows(rows: Mapping[str, Mapping[str, float]]) -> None:
    """Fractions as per cent, a line for each row."""
    width = max(len(name) for name in rows)
    print(" " * width, *next(iter(rows.values())), sep=" | ")
    for name, row in rows.items():
        cells = (f"{100 * value:.1f} %".rjust(len(column)) for column, value in row.items())
        print(name.ljust(width), *cells, sep=" | ")
