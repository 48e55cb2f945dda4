"""Recognizers: distilled, hardened, and taught to stand behind a denoiser."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from facepurify.bench.attacks import FGSM, FeatureTarget
from facepurify.bench.defences import get_defence
from facepurify.errors import OptionError
from facepurify.files import check_folder
from facepurify.train.choose import held_out_trial
from facepurify.train.commands.options import (
    Commands,
    add_device,
    add_faces,
    add_pairs,
    add_publishing,
    add_recipe,
    faces_of,
    filled,
    origin_of,
    print_rows,
    recognizer_of,
)
from facepurify.train.distributed import join_workers
from facepurify.train.facenet import FaceNet
from facepurify.train.mter import FIXES, MterRecipe, harden
from facepurify.train.publish import Origin, publish_recognizer
from facepurify.train.recognizer import (
    DistillRecipe,
    distill,
    export_recognizer,
    load_facenet,
    load_net,
    teach,
)
from facepurify.train.runs import method_of, open_run
from facepurify.train.transfer import TransferRecipe, transfer
from facepurify.train.uddn import UddnNet

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Adds this module's commands."""
    sub = commands.add("recognizer", _recognizer, "distil a small recognizer to measure with")
    add_faces(sub)
    sub.add_argument("--teacher", required=True, metavar="ONNX")
    sub.add_argument("--start", metavar="RUN|ONNX", help="go on from that run's network")
    add_recipe(sub, DistillRecipe())
    sub.add_argument("--run", default="runs/recognizer", metavar="DIR")
    sub.add_argument("--resume", action="store_true")
    sub.add_argument("-o", "--out", default="recognizer.onnx")
    add_publishing(sub, "recognizer")

    sub = commands.add("mter", _mter, "harden a recognizer against attacks on its embedding")
    add_faces(sub)
    sub.add_argument("--recognizer", required=True, metavar="RUN|ONNX", help="to fine-tune")
    sub.add_argument(
        "--teacher", metavar="ONNX", help="whose clean embeddings guide, as --teaching"
    )
    sub.add_argument("--purifier", metavar="NAME|ONNX", help="to be attacked and learnt through")
    add_recipe(sub, MterRecipe(), fix=FIXES)
    add_device(sub)
    sub.add_argument("--run", default="runs/mter", metavar="DIR")
    sub.add_argument("--resume", action="store_true")
    sub.add_argument("-o", "--out", default="recognizer-mter.onnx")
    add_publishing(sub, "recognizer-mter")

    sub = commands.add("transfer", _transfer, "teach a recognizer to stand behind a denoiser")
    add_faces(sub)
    sub.add_argument("--recognizer", required=True, metavar="RUN|ONNX", help="of `recognizer`")
    sub.add_argument("--denoiser", required=True, metavar="RUN", help="of `uddn`")
    sub.add_argument("--stranger", metavar="ONNX", help="to attack black box")
    add_pairs(sub, 1000)
    sub.add_argument("--run", default="runs/transfer", metavar="DIR")
    sub.add_argument("--resume", action="store_true")
    sub.add_argument("-o", "--out", default="student.onnx")
    add_recipe(sub, TransferRecipe())


def _recognizer(options: argparse.Namespace) -> None:
    check_folder(options.out)
    recipe, origin = filled(DistillRecipe, options), origin_of(options)
    teacher = recognizer_of(options, options.teacher)
    workers = join_workers("cpu")
    faces = faces_of(options)
    net = load_facenet(options.start, faces) if options.start else FaceNet(teacher.dim)
    cosine = distill(
        net, teacher, faces, recipe, options.run,
        cache=options.cache, seed=options.seed, resume=options.resume, workers=workers,
    )  # fmt: skip
    workers.leave()
    if workers.rank:
        return
    print(f"cosine to the teacher on held-out faces: {cosine:.4f}")
    _write_recognizer(net, options, origin)


def _mter(options: argparse.Namespace) -> None:
    check_folder(options.out)
    recipe, origin = filled(MterRecipe, options), origin_of(options)
    faces = faces_of(options)
    net, dim = load_net(options.recognizer, faces)
    teacher, sources = None, {}
    if options.teacher:
        tutor = recognizer_of(options, options.teacher)
        teacher = torch.from_numpy(teach(tutor, faces, options.cache))
        sources["teacher"] = tutor.sha256
    purify = None
    if options.purifier:
        defence = get_defence(options.purifier)
        purify, sources["purifier"] = defence.differentiable, defence.key()
    harden(
        net.to(options.device), dim, faces, recipe, options.run,
        teacher=teacher, purify=purify, seed=options.seed, resume=options.resume, sources=sources,
    )  # fmt: skip
    _write_recognizer(net.cpu(), options, origin)
    print("held-out faces, FAR 1e-3, feature-target attacks at eps 10:")
    trial = held_out_trial(
        faces, recognizer_of(options, options.out), pairs=3000, far=1e-3, eps=10,
        attacks=(FGSM(), FeatureTarget(steps=10)), seed=options.seed,
    )  # fmt: skip
    for what, value in trial.judge(lambda images: images).items():
        print(f"  {what}: {100 * value:.1f} %")


def _transfer(options: argparse.Namespace) -> None:
    check_folder(options.out)
    recipe, denoiser = filled(TransferRecipe, options), open_run(options.denoiser)
    if not isinstance(denoiser, UddnNet):
        raise OptionError(
            "expected a run of uddn for --denoiser, "
            f"got one of {method_of(denoiser)}: {options.denoiser}"
        )
    faces = faces_of(options)
    rows = transfer(
        load_facenet(options.recognizer, faces), denoiser, faces, recipe, options.run, options.out,
        stranger=recognizer_of(options, options.stranger) if options.stranger else None,
        pairs=options.pairs, attacked=options.attacked, seed=options.seed, resume=options.resume,
    )  # fmt: skip
    print_rows(rows)
    print(f"wrote {options.out}, a recognizer to use behind that denoiser")


def _write_recognizer(net: nn.Module, options: argparse.Namespace, origin: Origin | None) -> None:
    """Exports a recognizer, and publishes it where that was asked for."""
    difference = export_recognizer(net, options.out)
    if origin:
        publish_recognizer(Path(options.out), Path(options.publish), options.name, origin)
    print(f"wrote {options.out}: largest difference to torch {difference:.2g}")
