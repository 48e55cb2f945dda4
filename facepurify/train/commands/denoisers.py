"""UDDN and what is built on it: generated noise, the immune network, a fit to one recognizer."""

from __future__ import annotations

import argparse
from pathlib import Path

from facepurify.bench.recognizers import Recognizer
from facepurify.errors import OptionError
from facepurify.files import check_folder
from facepurify.train.ablate import ARMS, NETS, ablate, arms_named, render_ablation
from facepurify.train.ablate import ATTACKS as JUDGED_ATTACKS
from facepurify.train.adapt import AdaptRecipe, adapt
from facepurify.train.attack_pack import AttackPack, check_guides
from facepurify.train.autoencoder import Autoencoder, AutoencoderRecipe, fit_autoencoder
from facepurify.train.choose import held_out_trial
from facepurify.train.commands.options import (
    Commands,
    add_faces,
    add_gnr,
    add_guides,
    add_pairs,
    add_recipe,
    add_training,
    attacks_of,
    basis_of,
    begun,
    faces_of,
    filled,
    load_guides,
    noise_of,
    print_rows,
    recognizer_of,
)
from facepurify.train.export import export_bare
from facepurify.train.fit_uddn import DISTANCES, UddnRecipe, fit_uddn
from facepurify.train.gnr import GNR_SIZES, Gnr, GnrRecipe, fit_gnr
from facepurify.train.gnr_study import study_gnr
from facepurify.train.immune import ImmuneNet, mask_gap
from facepurify.train.immune_space import ImmuneSpace
from facepurify.train.loop import check_free
from facepurify.train.runs import checksum_of, describe_denoiser, load_pin, load_uddn
from facepurify.train.uddn import SIZES, UddnNet, pruned

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Adds this module's commands."""
    sub = commands.add("uddn", _uddn, "train UDDN, the denoiser")
    _add_fitting(sub, "runs/uddn")

    sub = commands.add("immune", _immune, "train denoiser and projection as one network")
    _add_fitting(sub, "runs/immune")
    sub.add_argument("--pin", default="pin", metavar="RUN|NAME|ONNX", help="to begin from")

    sub = commands.add("autoencoder", _autoencoder, "train an autoencoder to compare with")
    add_training(sub, "runs/dae", start=False)
    sub.add_argument("-o", "--out", default="dae.onnx")
    add_recipe(sub, AutoencoderRecipe())

    sub = commands.add(
        "ablate", _ablate, "what each idea brings a denoiser on a recognizer never seen"
    )
    add_faces(sub)
    add_guides(sub)
    sub.add_argument("--judge", required=True, metavar="ONNX", help="a recognizer that is no guide")
    sub.add_argument(
        "--arm", action="append", default=[], metavar="NAME",
        help="besides the base; repeat (default: all of " + ", ".join(a.name for a in ARMS) + ")",
    )  # fmt: skip
    sub.add_argument("--count", type=int, default=3000, help="faces to attack for a set of guides")
    sub.add_argument("--net", choices=tuple(NETS), default="uddn", help="what the arms train")
    sub.add_argument("--size", choices=tuple(SIZES), default="light")
    sub.add_argument("--pin", metavar="RUN|NAME|ONNX", help="whose space, not selector, stages use")
    add_gnr(sub)
    add_pairs(sub, 600)
    sub.add_argument("-o", "--out", default="ablation", metavar="DIR", help="goes on if begun")
    add_recipe(sub, UddnRecipe(steps=600), distance=DISTANCES)

    sub = commands.add("adapt", _adapt, "fit a shipped denoiser to your own recognizer")
    add_faces(sub)
    sub.add_argument("--recognizer", required=True, metavar="ONNX", help="yours")
    sub.add_argument(
        "--model", default="immune", metavar="NAME|ONNX", help="denoiser to begin from"
    )
    sub.add_argument("--run", default="runs/adapt", metavar="DIR", help="checkpoint, log, curve")
    sub.add_argument("-o", "--out", default="adapted.onnx")
    add_recipe(sub, AdaptRecipe())

    sub = commands.add("gnr", _gnr, "learn the noise of attacks, and measure how real it is")
    add_guides(sub)
    sub.add_argument("--size", choices=tuple(GNR_SIZES), default="light")
    add_training(sub, "runs/gnr", start=False)
    add_recipe(sub, GnrRecipe())


def _add_fitting(sub: argparse.ArgumentParser, run: str) -> None:
    """What to begin from, and how it learns."""
    add_guides(sub)
    sub.add_argument(
        "--uddn", default="light", metavar="SIZE|RUN|NAME|ONNX",
        help=f"to begin from; {', '.join(SIZES)} for a new one",
    )  # fmt: skip
    sub.add_argument("--prune", choices=tuple(SIZES), help="keep only the layers that this has too")
    sub.add_argument(
        "--eigenfaces", metavar="NPZ",
        help="put a projection onto these before it, in place of any that it has",
    )  # fmt: skip
    sub.add_argument("--luma", type=int, default=500, help="luma eigenfaces to project onto")
    sub.add_argument("--chroma", type=int, default=150, help="chroma eigenfaces to project onto")
    add_training(sub, run)
    add_gnr(sub)
    add_recipe(sub, UddnRecipe(), distance=DISTANCES)


def _denoiser(options: argparse.Namespace, recipe: UddnRecipe) -> UddnNet:
    """What ``_add_fitting`` begins from.

    Raises:
        OptionError: its batch norm would be measured anew though it is folded, or what is to be
            pruned has not been trained yet.
    """
    net = _begun_from(options, recipe)
    if options.eigenfaces:
        net.front = ImmuneSpace(basis_of(options))
    return net


def _begun_from(options: argparse.Namespace, recipe: UddnRecipe) -> UddnNet:
    if options.uddn in SIZES:
        if options.prune:
            raise OptionError(
                "expected a run, a model's name or a file to prune, "
                f"got a new {options.uddn} denoiser"
            )
        return UddnNet(options.uddn)
    if not (recipe.keeps_statistics or Path(options.uddn).is_dir()):
        raise OptionError(
            "expected --settled or --frozen to begin from an ONNX file, whose batch norm is "
            f"folded, got {options.uddn} without"
        )
    net = load_uddn(options.uddn)
    return pruned(net, options.prune) if options.prune else net


def _uddn(options: argparse.Namespace) -> None:
    recipe = filled(UddnRecipe, options)
    _fit(begun(_denoiser(options, recipe), options), recipe, options)


def _immune(options: argparse.Namespace) -> None:
    if not options.resume:
        check_free(options.run, resumes=True)
    recipe = filled(UddnRecipe, options)
    net = begun(ImmuneNet(_denoiser(options, recipe), load_pin(options.pin)), options)
    pack, guides = _fit(net, recipe, options)
    print("from the mask that was trained and ships to the published hard ones, attacked faces:")
    for mask, gap in mask_gap(net, pack, guides).items():
        levels = gap.pop("pixels")
        shift = ", ".join(f"{value:.4f} {guide}" for guide, value in gap.items())
        print(f"  {mask}: {levels:.2f} grey levels, 1 - cos {shift}")


def _fit(
    net: UddnNet, recipe: UddnRecipe, options: argparse.Namespace
) -> tuple[AttackPack, list[Recognizer]]:
    """Trains ``net`` in place as ``_add_fitting`` says; returns on what, and with whom."""
    pack, guides = attacks_of(options), load_guides(options)
    describe_denoiser(options.run, net)
    fit_uddn(
        net, pack, guides, recipe, options.run,
        draw_noise=noise_of(options), seed=options.seed, resume=options.resume,
    )  # fmt: skip
    return pack, guides


def _autoencoder(options: argparse.Namespace) -> None:
    check_folder(options.out)
    net = Autoencoder()
    fit_autoencoder(
        net, attacks_of(options), filled(AutoencoderRecipe, options), options.run,
        seed=options.seed, resume=options.resume,
    )  # fmt: skip
    difference = export_bare(net, options.out)
    print(f"wrote {options.out}: largest difference to torch {difference:.2g}")


def _ablate(options: argparse.Namespace) -> None:
    arms, guides = arms_named(options.arm), load_guides(options)
    sources = {
        name: checksum_of(source)
        for name, source in (("gnr", options.gnr), ("pin", options.pin))
        if source
    }
    faces = faces_of(options)
    trial = held_out_trial(
        faces, recognizer_of(options, options.judge), attacks=JUDGED_ATTACKS,
        pairs=options.pairs, attacked=options.attacked, seed=options.seed,
    )  # fmt: skip
    study = ablate(
        arms, filled(UddnRecipe, options), faces, guides, trial, options.out,
        count=options.count, net=options.net, size=options.size, draw_noise=noise_of(options),
        sources=sources, seed=options.seed,
        space=load_pin(options.pin).space.basis() if options.pin else None,
    )  # fmt: skip
    print(render_ablation(study))
    print(f"wrote ablation.json, .md and .png into {options.out}")


def _adapt(options: argparse.Namespace) -> None:
    recipe = filled(AdaptRecipe, options)
    check_free(options.run)  # before the faces, which may take minutes to pack
    check_folder(options.out)
    rows = adapt(
        recognizer_of(options, options.recognizer), faces_of(options),
        options.model, recipe, options.run, options.out, seed=options.seed,
    )  # fmt: skip
    print_rows(rows)
    print(f"wrote {options.out}; attacks at 8/255, on held-out faces, without the purifier known")


def _gnr(options: argparse.Namespace) -> None:
    net, pack = Gnr(options.size), attacks_of(options)
    guides = load_guides(options)
    check_guides(guides)  # the study's, after the training
    fit_gnr(
        net, pack, filled(GnrRecipe, options), options.run,
        seed=options.seed, resume=options.resume,
    )  # fmt: skip
    for name, row in study_gnr(net, pack, guides, options.run).items():
        shift = ", ".join(f"{value:.4f} {guide}" for guide, value in row["shift"].items())
        print(f"{name}: spectral distance {row['spectral distance']:.3f}, 1 - cos {shift}")
