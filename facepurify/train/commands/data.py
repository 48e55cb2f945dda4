"""The first steps: faces cut anew, the immune space, the attacks."""

from __future__ import annotations

import argparse

from facepurify.files import check_folder
from facepurify.train.attack_pack import KINDS, STRENGTHS, check_parts, write_pack
from facepurify.train.basis import Basis, check_sizes, fit_basis, frequency_energy
from facepurify.train.basis_study import check_study, study_basis
from facepurify.train.commands.options import (
    Commands,
    add_faces,
    add_guides,
    faces_of,
    load_guides,
)
from facepurify.train.realign import Landmarks, realign

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Adds this module's commands."""
    sub = commands.add("realign", _realign, "cut badly cut faces anew, onto the ArcFace template")
    sub.add_argument("--data", required=True, metavar="DIR", help="face folder")
    sub.add_argument("--detector", required=True, metavar="ONNX", help="insightface's (SCRFD)")
    sub.add_argument("-o", "--out", required=True, metavar="DIR")

    sub = commands.add("eigenfaces", _eigenfaces, "fit the immune space: eigenfaces")
    add_faces(sub)
    sub.add_argument("--luma", type=int, default=1500, help="luma eigenfaces")
    sub.add_argument("--chroma", type=int, default=400, help="chroma eigenfaces")
    sub.add_argument("--luma-zone", type=int, default=2048, help="luma DCT frequencies")
    sub.add_argument("--chroma-zone", type=int, default=400, help="frequencies of Cb, as of Cr")
    sub.add_argument("--study", metavar="DIR", help="compare with the full float64 basis (slow)")
    sub.add_argument("-o", "--out", default="eigenfaces.npz")

    sub = commands.add("attacks", _attacks, "attack training faces once, for every training run")
    add_faces(sub)
    add_guides(sub)
    sub.add_argument("--count", type=int, default=10000, help="faces")
    sub.add_argument(
        "--kind", action="append", type=_share, metavar="NAME=SHARE",
        help="of attack, such as pgd=0.5; repeat (default: "
        + ", ".join(f"{name}={share}" for name, share in KINDS.items()) + ")",
    )  # fmt: skip
    sub.add_argument(
        "--strengths", type=int, nargs="+", default=STRENGTHS, metavar="EPS",
        help="to draw from, of 255; one that is named twice is drawn twice as often",
    )  # fmt: skip
    sub.add_argument("--resume", action="store_true", help="go on where it was stopped")
    sub.add_argument("-o", "--out", default="attacks.npz")


def _realign(options: argparse.Namespace) -> None:
    counts = realign(options.data, Landmarks(options.detector), options.out)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))


def _eigenfaces(options: argparse.Namespace) -> None:
    check_folder(options.out)
    sizes = {
        name: getattr(options, name) for name in ("luma", "chroma", "luma_zone", "chroma_zone")
    }
    check_sizes(**sizes)
    faces = faces_of(options)
    if options.study:
        check_study(options.luma, faces)
    energy = frequency_energy(faces.batches(faces.training))
    basis = fit_basis(
        faces.batches(faces.training),
        energy,
        **sizes,
    )
    basis.save(options.out)
    print(f"wrote {options.out}")
    if options.study:
        study_basis(Basis.load(options.out), faces, options.study)


def _attacks(options: argparse.Namespace) -> None:
    check_folder(options.out)
    if not options.resume:
        check_parts(options.out)
    faces = faces_of(options)
    kinds = dict(options.kind) if options.kind else KINDS
    write_pack(
        options.out, faces, load_guides(options), options.count, kinds=kinds,
        strengths=options.strengths, seed=options.seed,
    )  # fmt: skip
    print(f"wrote {options.out}")


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    return name, float(share)
