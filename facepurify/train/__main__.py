"""``python -m facepurify.train COMMAND``: each step from faces to a shipped model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facepurify.bench.attacks import FGSM, FeatureTarget
from facepurify.bench.defences import get_defence
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import FacePurifyError, OptionError
from facepurify.purifier import Purifier
from facepurify.train.ablate import ARMS, ablate, arms_named, render_ablation
from facepurify.train.ablate import ATTACKS as JUDGED_ATTACKS
from facepurify.train.adapt import AdaptRecipe, adapt
from facepurify.train.ais import ANALYZERS, AisNet
from facepurify.train.attack_pack import KINDS, AttackPack, make_pack
from facepurify.train.autoencoder import Autoencoder, AutoencoderRecipe, fit_autoencoder
from facepurify.train.basis import Basis, fit_basis, frequency_energy
from facepurify.train.basis_study import study_basis
from facepurify.train.choose import choose, held_out_trial
from facepurify.train.corruption import DrawNoise
from facepurify.train.critic import AffinityCritic
from facepurify.train.distributed import join_workers
from facepurify.train.export import (
    export_bare,
    export_projection,
    export_purifier,
    suspicion_threshold,
)
from facepurify.train.facenet import FaceNet
from facepurify.train.faces import load_faces
from facepurify.train.fit_ais import ATTACKERS, AisRecipe, fit_ais
from facepurify.train.fit_critic import CRITIC, CriticRecipe, fit_critic
from facepurify.train.fit_pin import PinRecipe, fit_pin
from facepurify.train.fit_uddn import DISTANCES, UddnRecipe, fit_uddn
from facepurify.train.gnr import GNR_SIZES, Gnr, GnrRecipe, fit_gnr
from facepurify.train.gnr_study import study_gnr
from facepurify.train.immune import ImmuneNet, mask_gap
from facepurify.train.loop import CHECKPOINT, load_run
from facepurify.train.mter import FIXES, MterRecipe, harden
from facepurify.train.pin import SELECTORS, PinNet
from facepurify.train.publish import Origin, publish_purifier, publish_recognizer
from facepurify.train.quantise import WEIGHTS, quantise
from facepurify.train.realign import Landmarks, realign
from facepurify.train.recognizer import DistillRecipe, distill, export_recognizer, load_net, teach
from facepurify.train.runs import (
    describe_immune,
    describe_run,
    load_pin,
    load_uddn,
    method_of,
    open_run,
)
from facepurify.train.search_study import study_search
from facepurify.train.selection import GRADIENTS
from facepurify.train.selection_study import StudyRecipe, study_selection
from facepurify.train.transfer import TransferRecipe, transfer
from facepurify.train.uddn import SIZES, UddnNet

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        options.command(options)
    except FacePurifyError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m facepurify.train",
        description="From folders of aligned 112 x 112 faces to an ONNX purifier, step by step.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=summary, description=summary,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )  # fmt: skip
        sub.set_defaults(command=run)
        sub.add_argument("--seed", type=int, default=0, help="of everything random")
        sub.add_argument("--threads", type=int, help="of torch")
        return sub

    def faces(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--data", nargs="+", required=True, metavar="DIR", help="face folders")
        sub.add_argument("--cache", default=".faces", metavar="DIR", help="packed pixels")

    def guides(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--guide", action="append", required=True, metavar="ONNX", help="recognizer; repeat"
        )

    sub = command("realign", _realign, "cut badly cut faces anew, onto the ArcFace template")
    sub.add_argument("--data", required=True, metavar="DIR", help="face folder")
    sub.add_argument("--detector", required=True, metavar="ONNX", help="insightface's (SCRFD)")
    sub.add_argument("-o", "--out", required=True, metavar="DIR")

    sub = command("eigenfaces", _eigenfaces, "fit the immune space: luma and chroma eigenfaces")
    faces(sub)
    sub.add_argument("--luma", type=int, default=1500, help="luma eigenfaces")
    sub.add_argument("--chroma", type=int, default=400, help="chroma eigenfaces")
    sub.add_argument("--luma-zone", type=int, default=2048, help="luma DCT frequencies")
    sub.add_argument("--chroma-zone", type=int, default=400, help="frequencies of Cb, as of Cr")
    sub.add_argument("--study", metavar="DIR", help="compare with the full float64 basis (slow)")
    sub.add_argument("-o", "--out", default="eigenfaces.npz")

    sub = command("attacks", _attacks, "attack training faces once, for every training run")
    faces(sub)
    guides(sub)
    sub.add_argument("--count", type=int, default=10000, help="faces")
    sub.add_argument(
        "--kind", action="append", type=_share, metavar="NAME=SHARE",
        help="of attack, such as pgd=0.5; repeat (default: "
        + ", ".join(f"{name}={share}" for name, share in KINDS.items()) + ")",
    )  # fmt: skip
    sub.add_argument("-o", "--out", default="attacks.npz")

    sub = command("pin", _pin, "train PIN's selector")
    guides(sub)
    _immune_model(sub, "pin", SELECTORS)
    sub.add_argument("--attacks", default="attacks.npz")
    sub.add_argument("--start", metavar="RUN", help="begin from another run's weights")
    sub.add_argument("--resume", action="store_true")
    _recipe(sub, PinRecipe(), gradient=("expected", "policy"))

    sub = command("ais", _ais, "train AIS: analyzer, memory and antibody generator")
    guides(sub)
    _immune_model(sub, "ais", ANALYZERS)
    sub.add_argument("--memory", type=int, default=128, help="cells; 0 for none")
    sub.add_argument("--attacks", default="attacks.npz")
    sub.add_argument("--start", metavar="RUN", help="begin from another run's weights")
    sub.add_argument("--resume", action="store_true")
    sub.add_argument("--device", default="cpu", help="of torch; several GPUs by torchrun")
    _recipe(sub, AisRecipe(), gradient=GRADIENTS, attacker=ATTACKERS)

    sub = command("critic", _critic, "train the critic that AIS searches by, after `ais`")
    guides(sub)
    sub.add_argument("--run", default="runs/ais", metavar="DIR", help="of ais")
    sub.add_argument("--attacks", default="attacks.npz")
    sub.add_argument("--resume", action="store_true")
    _recipe(sub, CriticRecipe())

    sub = command("ais-gradient", _ais_gradient, "compare the gradients of AIS's selection")
    guides(sub)
    _immune_model(sub, "ais", ANALYZERS)
    sub.add_argument("--memory", type=int, default=128, help="cells; 0 for none")
    sub.add_argument("--attacks", default="attacks.npz")
    sub.add_argument("--start", metavar="RUN", help="begin from a run's weights")
    sub.add_argument("--sparsity", type=int, default=AisRecipe().sparsity, help="as of ais")
    _recipe(sub, StudyRecipe())

    sub = command("ais-search", _ais_search, "compare the searches for an antibody")
    faces(sub)
    guides(sub)
    sub.add_argument("--model", default="ais", metavar="NAME|ONNX")
    sub.add_argument("--clones", type=int, default=32)
    sub.add_argument("--generations", type=int, default=4)
    sub.add_argument("--pairs", type=int, default=600, help="clean pairs of each kind")
    sub.add_argument("--attacked", type=int, default=100, help="attacked pairs of each kind")
    sub.add_argument("-o", "--out", default="choice", help="folder for search.json")

    sub = command("uddn", _uddn, "train UDDN, the denoiser")
    guides(sub)
    sub.add_argument("--size", choices=tuple(SIZES), default="light")
    sub.add_argument("--run", default="runs/uddn", metavar="DIR", help="checkpoint, log, curve")
    sub.add_argument("--attacks", default="attacks.npz")
    sub.add_argument("--start", metavar="RUN", help="begin from another run's weights")
    sub.add_argument("--resume", action="store_true")
    _noise(sub)
    _recipe(sub, UddnRecipe(), distance=DISTANCES)

    sub = command("immune", _immune, "train denoiser and PIN's projection after it as one network")
    guides(sub)
    sub.add_argument(
        "--uddn", default="light", metavar="SIZE|RUN|NAME|ONNX",
        help=f"to begin from; {' or '.join(SIZES)} for a new one",
    )  # fmt: skip
    sub.add_argument("--pin", default="pin", metavar="RUN|NAME|ONNX", help="to begin from")
    sub.add_argument("--start", metavar="RUN", help="begin from another run of immune instead")
    sub.add_argument("--run", default="runs/immune", metavar="DIR", help="checkpoint, log, curve")
    sub.add_argument("--attacks", default="attacks.npz")
    sub.add_argument("--resume", action="store_true")
    _noise(sub)
    _recipe(sub, UddnRecipe(), distance=DISTANCES)

    sub = command("autoencoder", _autoencoder, "train the denoising autoencoder to compare with")
    sub.add_argument("--run", default="runs/dae", metavar="DIR", help="checkpoint, log, curve")
    sub.add_argument("--attacks", default="attacks.npz")
    sub.add_argument("--resume", action="store_true")
    sub.add_argument("-o", "--out", default="dae.onnx")
    _recipe(sub, AutoencoderRecipe())

    sub = command("ablate", _ablate, "what each idea brings UDDN on a recognizer never seen")
    faces(sub)
    guides(sub)
    sub.add_argument("--judge", required=True, metavar="ONNX", help="a recognizer that is no guide")
    sub.add_argument(
        "--arm", action="append", default=[], metavar="NAME",
        help="besides the base; repeat (default: all of " + ", ".join(a.name for a in ARMS) + ")",
    )  # fmt: skip
    sub.add_argument("--count", type=int, default=3000, help="faces to attack for a set of guides")
    sub.add_argument("--size", choices=tuple(SIZES), default="light")
    sub.add_argument("--pin", metavar="RUN|NAME|ONNX", help="whose space, not selector, stages use")
    _noise(sub)
    sub.add_argument("--pairs", type=int, default=600, help="clean pairs of each kind")
    sub.add_argument("--attacked", type=int, default=200, help="attacked pairs of each kind")
    sub.add_argument("-o", "--out", default="ablation", metavar="DIR", help="goes on if begun")
    _recipe(sub, UddnRecipe(steps=600), distance=DISTANCES)

    sub = command("adapt", _adapt, "fit a shipped denoiser to your own recognizer")
    faces(sub)
    sub.add_argument("--recognizer", required=True, metavar="ONNX", help="yours")
    sub.add_argument("--model", default="uddn", metavar="NAME|ONNX", help="denoiser to begin from")
    sub.add_argument("--run", default="runs/adapt", metavar="DIR", help="checkpoint, log, curve")
    sub.add_argument("-o", "--out", default="adapted.onnx")
    _recipe(sub, AdaptRecipe())

    sub = command("transfer", _transfer, "teach a recognizer to stand behind a denoiser")
    faces(sub)
    sub.add_argument("--recognizer", required=True, metavar="RUN", help="of `recognizer`")
    sub.add_argument("--dim", type=int, default=128, help="length of its embeddings")
    sub.add_argument("--denoiser", required=True, metavar="RUN", help="of `uddn`")
    sub.add_argument("--stranger", metavar="ONNX", help="to attack black box")
    sub.add_argument("--pairs", type=int, default=1000, help="clean held-out pairs of each kind")
    sub.add_argument("--attacked", type=int, default=200, help="attacked pairs of each kind")
    sub.add_argument("--run", default="runs/transfer", metavar="DIR")
    sub.add_argument("-o", "--out", default="student.onnx")
    _recipe(sub, TransferRecipe())

    sub = command("gnr", _gnr, "learn the noise of attacks, and measure how real it is")
    guides(sub)
    sub.add_argument("--size", choices=tuple(GNR_SIZES), default="light")
    sub.add_argument("--run", default="runs/gnr", metavar="DIR", help="checkpoint, log, study")
    sub.add_argument("--attacks", default="attacks.npz")
    sub.add_argument("--resume", action="store_true")
    _recipe(sub, GnrRecipe())

    sub = command("export", _export, "write a run's purifier as ONNX and calibrate its score")
    faces(sub)
    sub.add_argument("--run", default="runs/pin", metavar="DIR", help="of pin, ais, uddn or immune")
    sub.add_argument("--denoiser", action="store_true", help="that of a run of immune, alone")
    sub.add_argument("--half", action="store_true", help="keep the weights in half precision")
    sub.add_argument("-o", "--out", help="(default: the method's name)")
    _publishing(sub)

    sub = command("quantise", _quantise, "write a purifier with weights of fewer bits")
    sub.add_argument("--model", default="pin", metavar="NAME|ONNX")
    sub.add_argument("--weights", choices=WEIGHTS, default="float16")
    sub.add_argument("--data", nargs="+", metavar="DIR", help="face folders, which int8 needs")
    sub.add_argument("--cache", default=".faces", metavar="DIR", help="packed pixels")
    sub.add_argument("-o", "--out", required=True, metavar="ONNX")

    sub = command("project", _project, "write a fixed projection as ONNX, to compare with")
    sub.add_argument("--eigenfaces", default="eigenfaces.npz")
    sub.add_argument("--luma", type=int, default=600, help="luma eigenfaces")
    sub.add_argument("--chroma", type=int, default=200, help="chroma eigenfaces")
    sub.add_argument("-o", "--out", default="fixed.onnx")

    sub = command("choose", _choose, "clean cost against strength on held-out training faces")
    faces(sub)
    guides(sub)
    sub.add_argument("--eigenfaces", help="compare with fixed projections onto these")
    sub.add_argument(
        "--model", action="append", default=[], metavar="NAME|ONNX", help="or a chain; repeat"
    )
    sub.add_argument(
        "--delivered", default="none", metavar="BASELINE",
        help="what every probe goes through first, such as jpeg90",
    )  # fmt: skip
    sub.add_argument("--pairs", type=int, default=1000, help="clean pairs of each kind")
    sub.add_argument("--attacked", type=int, default=200, help="attacked pairs of each kind")
    sub.add_argument("-o", "--out", default="choice", help="folder for choice.json and .png")

    sub = command("recognizer", _recognizer, "distil a small recognizer for measuring and demos")
    faces(sub)
    sub.add_argument("--teacher", required=True, metavar="ONNX")
    _recipe(sub, DistillRecipe())
    sub.add_argument("--run", default="runs/recognizer", metavar="DIR")
    sub.add_argument("--resume", action="store_true")
    sub.add_argument("-o", "--out", default="recognizer.onnx")
    _publishing(sub, "recognizer")

    sub = command("mter", _mter, "harden a recognizer against attacks on its embedding")
    faces(sub)
    sub.add_argument("--recognizer", required=True, metavar="RUN|ONNX", help="to fine-tune")
    sub.add_argument(
        "--teacher", metavar="ONNX", help="whose clean embeddings guide, as --teaching"
    )
    sub.add_argument("--purifier", metavar="NAME|ONNX", help="to be attacked and learnt through")
    _recipe(sub, MterRecipe(), fix=FIXES)
    sub.add_argument("--device", default="cpu", help="of torch")
    sub.add_argument("--run", default="runs/mter", metavar="DIR")
    sub.add_argument("--resume", action="store_true")
    sub.add_argument("-o", "--out", default="recognizer-mter.onnx")
    _publishing(sub, "recognizer-mter")
    return parser


def _immune_model(
    sub: argparse.ArgumentParser, method: str, selectors: Mapping[str, object]
) -> None:
    sub.add_argument("--eigenfaces", default="eigenfaces.npz")
    sub.add_argument("--luma", type=int, default=1200, help="luma eigenfaces to use")
    sub.add_argument("--chroma", type=int, default=200, help="chroma eigenfaces to use")
    sub.add_argument("--selector", choices=tuple(selectors), default="light")
    sub.add_argument(
        "--run", default=f"runs/{method}", metavar="DIR", help="checkpoint, log, curve"
    )


def _noise(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--gnr", metavar="RUN", help="draws the generated noise")
    sub.add_argument("--gnr-size", choices=tuple(GNR_SIZES), default="light")


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    return name, float(share)


def _recipe(sub: argparse.ArgumentParser, recipe: Any, **choices: Sequence[str]) -> None:
    """An option for each field of a recipe, with its default."""
    for field in fields(recipe):
        name, value = "--" + field.name.replace("_", "-"), getattr(recipe, field.name)
        if isinstance(value, bool):
            sub.add_argument(name, action="store_true")
        else:
            sub.add_argument(name, type=type(value), default=value, choices=choices.get(field.name))


def _filled(recipe: Any, options: argparse.Namespace) -> Any:
    """The recipe of that class that ``_recipe``'s options ask for."""
    return recipe(**{field.name: getattr(options, field.name) for field in fields(recipe)})


def _publishing(sub: argparse.ArgumentParser, name: str | None = None) -> None:
    sub.add_argument("--publish", metavar="DIR", help="put it there, with a manifest entry")
    sub.add_argument("--name", default=name, help="to publish it under")
    sub.add_argument("--training-data", action="extend", nargs="+", default=[], metavar="SET")
    sub.add_argument("--licence", default="", help="what the data allows, for the manifest")


def _load_guides(options: argparse.Namespace) -> list[Recognizer]:
    device = getattr(options, "device", "cpu")
    return [Recognizer.from_onnx(path, device) for path in options.guide]


def _basis(options: argparse.Namespace) -> Basis:
    return Basis.load(options.eigenfaces).first(options.luma, options.chroma)


def _realign(options: argparse.Namespace) -> None:
    counts = realign(options.data, Landmarks(options.detector), options.out)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))


def _eigenfaces(options: argparse.Namespace) -> None:
    faces = load_faces(options.data, options.cache)
    print(
        f"{len(faces)} faces, {len(faces.validation)} of them held out; left out: {faces.skipped}"
    )
    energy = frequency_energy(faces.batches(faces.training))
    basis = fit_basis(
        faces.batches(faces.training),
        energy,
        luma=options.luma,
        chroma=options.chroma,
        luma_zone=options.luma_zone,
        chroma_zone=options.chroma_zone,
    )
    basis.save(options.out)
    print(f"wrote {options.out}")
    if options.study:
        study_basis(Basis.load(options.out), faces, options.study)


def _attacks(options: argparse.Namespace) -> None:
    faces = load_faces(options.data, options.cache)
    kinds = dict(options.kind) if options.kind else KINDS
    pack = make_pack(faces, _load_guides(options), options.count, kinds=kinds, seed=options.seed)
    pack.save(options.out)
    print(f"wrote {options.out}")


def _pin(options: argparse.Namespace) -> None:
    net = PinNet(_basis(options), options.selector)
    if options.start:
        load_run(net, options.start)
    pack, guides = AttackPack.load(options.attacks), _load_guides(options)
    described = {name: getattr(options, name) for name in ("luma", "chroma", "selector")}
    describe_run(options.run, "PIN", eigenfaces=options.eigenfaces, **described)
    fit_pin(
        net, pack, guides, _filled(PinRecipe, options), options.run,
        seed=options.seed, resume=options.resume,
    )  # fmt: skip


def _ais(options: argparse.Namespace) -> None:
    net = AisNet(_basis(options), options.selector, options.memory)
    if options.start:
        load_run(net, options.start)
    workers = join_workers(options.device)
    pack, guides = AttackPack.load(options.attacks), _load_guides(options)
    described = {name: getattr(options, name) for name in ("luma", "chroma", "selector", "memory")}
    describe_run(workers.folder(options.run), "AIS", eigenfaces=options.eigenfaces, **described)
    fit_ais(
        net, pack, guides, _filled(AisRecipe, options), options.run,
        seed=options.seed, resume=options.resume, device=options.device, workers=workers,
    )  # fmt: skip
    workers.leave()


def _opened_ais(folder: str) -> AisNet:
    net = open_run(folder)
    if not isinstance(net, AisNet):
        raise OptionError(f"expected a run of ais, got another's: {folder}")
    return net


def _critic_of(net: AisNet) -> AffinityCritic:
    return AffinityCritic(net.space.count, net.selector.code_size)


def _critic(options: argparse.Namespace) -> None:
    net = _opened_ais(options.run)
    fit_critic(
        net, _critic_of(net), AttackPack.load(options.attacks), _load_guides(options),
        _filled(CriticRecipe, options), Path(options.run) / CRITIC,
        seed=options.seed, resume=options.resume,
    )  # fmt: skip


def _ais_gradient(options: argparse.Namespace) -> None:
    net = AisNet(_basis(options), options.selector, options.memory)
    if options.start:
        load_run(net, options.start)
    report = study_selection(
        net, AttackPack.load(options.attacks), _load_guides(options)[0],
        _filled(StudyRecipe, options), AisRecipe(sparsity=options.sparsity), options.run,
        seed=options.seed,
    )  # fmt: skip
    for name, row in report.items():
        print(
            f"{name}: variance {row['variance']:.3g}, bias {row['bias']:.3g} "
            f"(floor {row['floor']:.3g}), "
            f"{row['seconds']:.2f} s a gradient, loss {row['curve'][0][2]:.4f} -> "
            f"{row['curve'][-1][2]:.4f} in {row['curve'][-1][0]:.0f} s"
        )


def _ais_search(options: argparse.Namespace) -> None:
    faces = load_faces(options.data, options.cache)
    trials = [
        held_out_trial(
            faces, guide, pairs=options.pairs, attacked=options.attacked, seed=options.seed
        )
        for guide in _load_guides(options)
    ]
    results = study_search(
        trials, options.model, options.out, budget=(options.clones, options.generations)
    )
    for recognizer, rows in results.items():
        print(recognizer)
        times = {name: row["ms"] for name, row in rows.items() if "ms" in row}
        _print_rows({n: {k: v for k, v in r.items() if k != "ms"} for n, r in rows.items()})
        print("ms an image:", ", ".join(f"{name} {ms:.1f}" for name, ms in times.items()))


def _uddn(options: argparse.Namespace) -> None:
    net = UddnNet(options.size)
    if options.start:
        load_run(net, options.start)
    pack, guides = AttackPack.load(options.attacks), _load_guides(options)
    describe_run(options.run, "UDDN", size=options.size)
    fit_uddn(
        net, pack, guides, _filled(UddnRecipe, options), options.run,
        draw_noise=_noise_of(options), seed=options.seed, resume=options.resume,
    )  # fmt: skip


def _immune(options: argparse.Namespace) -> None:
    recipe = _filled(UddnRecipe, options)
    new = options.uddn in SIZES
    if not (new or recipe.settled or recipe.rehearse or Path(options.uddn).is_dir()):
        raise OptionError(
            "expected --settled to begin from an ONNX file, whose batch norm is folded, got "
            f"{options.uddn} without"
        )
    denoiser = UddnNet(options.uddn) if new else load_uddn(options.uddn)
    net = ImmuneNet(denoiser, load_pin(options.pin))
    if options.start:
        load_run(net, options.start)
    pack, guides = AttackPack.load(options.attacks), _load_guides(options)
    describe_immune(options.run, net)
    fit_uddn(
        net, pack, guides, recipe, options.run,
        draw_noise=_noise_of(options), seed=options.seed, resume=options.resume,
    )  # fmt: skip
    print("from the mask that was trained and ships to the published hard ones, attacked faces:")
    for mask, gap in mask_gap(net, pack, guides).items():
        levels = gap.pop("pixels")
        shift = ", ".join(f"{value:.4f} {guide}" for guide, value in gap.items())
        print(f"  {mask}: {levels:.2f} grey levels, 1 - cos {shift}")


def _autoencoder(options: argparse.Namespace) -> None:
    net = Autoencoder()
    fit_autoencoder(
        net, AttackPack.load(options.attacks), _filled(AutoencoderRecipe, options), options.run,
        seed=options.seed, resume=options.resume,
    )  # fmt: skip
    difference = export_bare(net, options.out)
    print(f"wrote {options.out}: largest difference to torch {difference:.2g}")


def _ablate(options: argparse.Namespace) -> None:
    arms, guides = arms_named(options.arm), _load_guides(options)
    faces = load_faces(options.data, options.cache)
    trial = held_out_trial(
        faces, Recognizer.from_onnx(options.judge), attacks=JUDGED_ATTACKS,
        pairs=options.pairs, attacked=options.attacked, seed=options.seed,
    )  # fmt: skip
    study = ablate(
        arms, _filled(UddnRecipe, options), faces, guides, trial, options.out,
        count=options.count, size=options.size, draw_noise=_noise_of(options), seed=options.seed,
        space=load_pin(options.pin).space.basis() if options.pin else None,
    )  # fmt: skip
    print(render_ablation(study))
    print(f"wrote ablation.json, .md and .png into {options.out}")


def _noise_of(options: argparse.Namespace) -> DrawNoise | None:
    if not options.gnr:
        return None
    gnr = Gnr(options.gnr_size)
    load_run(gnr, options.gnr)
    return lambda strength, generator: gnr.sample(len(strength), strength, generator)


def _adapt(options: argparse.Namespace) -> None:
    rows = adapt(
        Recognizer.from_onnx(options.recognizer), load_faces(options.data, options.cache),
        options.model, _filled(AdaptRecipe, options), options.run, options.out, seed=options.seed,
    )  # fmt: skip
    _print_rows(rows)
    print(f"wrote {options.out}; attacks at 8/255, on held-out faces, without the purifier known")


def _print_rows(rows: Mapping[str, Mapping[str, float]]) -> None:
    """Fractions as per cent, a line for each row."""
    width = max(len(name) for name in rows)
    print(" " * width, *next(iter(rows.values())), sep=" | ")
    for name, row in rows.items():
        cells = (f"{100 * value:.1f} %".rjust(len(column)) for column, value in row.items())
        print(name.ljust(width), *cells, sep=" | ")


def _transfer(options: argparse.Namespace) -> None:
    base, denoiser = FaceNet(options.dim), open_run(options.denoiser)
    if not isinstance(denoiser, UddnNet):
        raise OptionError(
            f"expected a run of uddn for --denoiser, got one of PIN: {options.denoiser}"
        )
    load_run(base, options.recognizer)
    rows = transfer(
        base, denoiser, load_faces(options.data, options.cache),
        _filled(TransferRecipe, options), options.run, options.out,
        stranger=Recognizer.from_onnx(options.stranger) if options.stranger else None,
        pairs=options.pairs, attacked=options.attacked, seed=options.seed,
    )  # fmt: skip
    _print_rows(rows)
    print(f"wrote {options.out}, a recognizer to use behind that denoiser")


def _gnr(options: argparse.Namespace) -> None:
    net, pack = Gnr(options.size), AttackPack.load(options.attacks)
    fit_gnr(
        net, pack, _filled(GnrRecipe, options), options.run,
        seed=options.seed, resume=options.resume,
    )  # fmt: skip
    for name, row in study_gnr(net, pack, _load_guides(options), options.run).items():
        shift = ", ".join(f"{value:.4f} {guide}" for guide, value in row["shift"].items())
        print(f"{name}: spectral distance {row['spectral distance']:.3f}, 1 - cos {shift}")


def _export(options: argparse.Namespace) -> None:
    net = open_run(options.run)
    if options.denoiser:
        if not isinstance(net, ImmuneNet):
            raise OptionError(f"expected a run of immune for --denoiser, got {method_of(net)}")
        net = net.denoiser()
    method = method_of(net)
    critic, trained = None, Path(options.run) / CRITIC
    if isinstance(net, AisNet) and (trained / CHECKPOINT).exists():
        load_run(critic := _critic_of(net), trained)
    out = Path(options.out or f"{method.lower()}.onnx")
    difference = export_purifier(net, out, critic)
    if options.half:
        quantise(str(out), "float16", out)
    faces = load_faces(options.data, options.cache)
    threshold = suspicion_threshold(out, faces)
    if options.publish:
        publish_purifier(
            out,
            Path(options.publish),
            options.name or method.lower(),
            Origin(options.training_data, options.licence),
            method=method,
            masks=Purifier(out).info.masks,
            threshold=threshold,
            difference=difference,
        )
    print(
        f"wrote {out}: {out.stat().st_size} bytes, largest difference to torch {difference:.2g}, "
        f"score threshold {threshold:.4f} at 1 % false alarms on held-out faces"
    )


def _quantise(options: argparse.Namespace) -> None:
    faces = load_faces(options.data, options.cache) if options.data else None
    quantise(options.model, options.weights, options.out, faces)
    print(f"wrote {options.out}: {Path(options.out).stat().st_size} bytes")


def _project(options: argparse.Namespace) -> None:
    export_projection(
        Basis.load(options.eigenfaces).first(options.luma, options.chroma), options.out
    )
    print(f"wrote {options.out}")


def _choose(options: argparse.Namespace) -> None:
    faces = load_faces(options.data, options.cache)
    trials = [
        held_out_trial(
            faces,
            guide,
            pairs=options.pairs,
            attacked=options.attacked,
            seed=options.seed,
        )
        for guide in _load_guides(options)
    ]
    basis = Basis.load(options.eigenfaces) if options.eigenfaces else None
    choose(trials, basis, options.model, options.out, delivered=options.delivered)


def _recognizer(options: argparse.Namespace) -> None:
    teacher = Recognizer.from_onnx(options.teacher)
    net = FaceNet(teacher.dim)
    recipe = _filled(DistillRecipe, options)
    faces = load_faces(options.data, options.cache)
    cosine = distill(
        net, teacher, faces, recipe, options.run,
        cache=options.cache, seed=options.seed, resume=options.resume,
    )  # fmt: skip
    print(f"cosine to the teacher on held-out faces: {cosine:.4f}")
    _write_recognizer(net, options)


def _write_recognizer(net: nn.Module, options: argparse.Namespace) -> None:
    """Exports a recognizer, and publishes it where that was asked for."""
    difference = export_recognizer(net, options.out)
    if options.publish:
        origin = Origin(options.training_data, options.licence)
        publish_recognizer(Path(options.out), Path(options.publish), options.name, origin)
    print(f"wrote {options.out}: largest difference to torch {difference:.2g}")


def _mter(options: argparse.Namespace) -> None:
    net, dim = load_net(options.recognizer)
    recipe = _filled(MterRecipe, options)
    faces = load_faces(options.data, options.cache)
    teacher = None
    if options.teacher:
        teacher = torch.from_numpy(
            teach(Recognizer.from_onnx(options.teacher), faces, options.cache)
        )
    purify = None
    if options.purifier:
        purify = get_defence(options.purifier).differentiable
    harden(
        net.to(options.device), dim, faces, recipe, options.run,
        teacher=teacher, purify=purify, seed=options.seed, resume=options.resume,
    )  # fmt: skip
    _write_recognizer(net.cpu(), options)
    print("held-out faces, FAR 1e-3, feature-target attacks at eps 10:")
    trial = held_out_trial(
        faces, Recognizer.from_onnx(options.out), pairs=3000, far=1e-3, eps=10,
        attacks=(FGSM(), FeatureTarget(steps=10)), seed=options.seed,
    )  # fmt: skip
    for what, value in trial.judge(lambda images: images).items():
        print(f"  {what}: {100 * value:.1f} %")


if __name__ == "__main__":
    sys.exit(main())
