"""PIN and AIS: who chooses among the eigenfaces."""

from __future__ import annotations

import argparse
from pathlib import Path

from facepurify.errors import OptionError
from facepurify.train.ais import ANALYZERS, AisNet
from facepurify.train.commands.options import (
    Commands,
    add_device,
    add_faces,
    add_guides,
    add_pairs,
    add_recipe,
    add_space,
    add_training,
    attacks_of,
    basis_of,
    begun,
    filled,
    load_guides,
    print_rows,
    recognizer_of,
    trials_of,
)
from facepurify.train.critic import AffinityCritic
from facepurify.train.distributed import join_workers
from facepurify.train.fit_ais import ATTACKERS, AisRecipe, fit_ais
from facepurify.train.fit_critic import CRITIC, CriticRecipe, fit_critic
from facepurify.train.fit_pin import PinRecipe, fit_pin
from facepurify.train.pin import SELECTORS, PinNet
from facepurify.train.runs import describe_run, open_run
from facepurify.train.search_study import study_search
from facepurify.train.selection import GRADIENTS
from facepurify.train.selection_study import StudyRecipe, study_selection

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Adds this module's commands."""
    sub = commands.add("pin", _pin, "train PIN's selector")
    add_guides(sub)
    add_space(sub, SELECTORS)
    add_training(sub, "runs/pin")
    add_recipe(sub, PinRecipe(), gradient=("expected", "policy"))

    sub = commands.add("ais", _ais, "train AIS: analyzer, memory and antibody generator")
    add_guides(sub)
    add_space(sub, ANALYZERS)
    sub.add_argument("--memory", type=int, default=128, help="cells; 0 for none")
    add_training(sub, "runs/ais")
    add_device(sub)
    add_recipe(sub, AisRecipe(), gradient=GRADIENTS, attacker=ATTACKERS)

    sub = commands.add("critic", _critic, "train the critic that AIS searches by, after `ais`")
    add_guides(sub)
    add_training(sub, "runs/ais", start=False)
    add_recipe(sub, CriticRecipe())

    sub = commands.add("ais-gradient", _ais_gradient, "compare the gradients of AIS's selection")
    sub.add_argument("--guide", required=True, metavar="ONNX", help="one recognizer")
    add_space(sub, ANALYZERS)
    sub.add_argument("--memory", type=int, default=128, help="cells; 0 for none")
    add_training(sub, "runs/ais-gradient", resume=False)
    sub.add_argument("--sparsity", type=int, default=AisRecipe().sparsity, help="as of ais")
    add_recipe(sub, StudyRecipe())

    sub = commands.add("ais-search", _ais_search, "compare the searches for an antibody")
    add_faces(sub)
    add_guides(sub)
    sub.add_argument("--model", default="ais", metavar="NAME|ONNX")
    sub.add_argument("--clones", type=int, default=32)
    sub.add_argument("--generations", type=int, default=4)
    add_pairs(sub, 600, 100)
    sub.add_argument("-o", "--out", default="choice", help="folder for search.json")


def _pin(options: argparse.Namespace) -> None:
    net = begun(PinNet(basis_of(options), options.selector), options)
    pack, guides = attacks_of(options), load_guides(options)
    described = {name: getattr(options, name) for name in ("luma", "chroma", "selector")}
    describe_run(options.run, "PIN", eigenfaces=options.eigenfaces, **described)
    fit_pin(
        net, pack, guides, filled(PinRecipe, options), options.run,
        seed=options.seed, resume=options.resume,
    )  # fmt: skip


def _ais(options: argparse.Namespace) -> None:
    net = begun(AisNet(basis_of(options), options.selector, options.memory), options)
    workers = join_workers(options.device)
    pack, guides = attacks_of(options), load_guides(options)
    described = {name: getattr(options, name) for name in ("luma", "chroma", "selector", "memory")}
    describe_run(workers.folder(options.run), "AIS", eigenfaces=options.eigenfaces, **described)
    fit_ais(
        net, pack, guides, filled(AisRecipe, options), options.run,
        seed=options.seed, resume=options.resume, device=options.device, workers=workers,
    )  # fmt: skip
    workers.leave()


def _critic(options: argparse.Namespace) -> None:
    net = _opened_ais(options.run)
    fit_critic(
        net, AffinityCritic.of(net), attacks_of(options), load_guides(options),
        filled(CriticRecipe, options), Path(options.run) / CRITIC,
        seed=options.seed, resume=options.resume,
    )  # fmt: skip


def _ais_gradient(options: argparse.Namespace) -> None:
    net = begun(AisNet(basis_of(options), options.selector, options.memory), options)
    report = study_selection(
        net, attacks_of(options), recognizer_of(options, options.guide),
        filled(StudyRecipe, options), AisRecipe(sparsity=options.sparsity), options.run,
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
    budget = options.clones, options.generations
    results = study_search(trials_of(options), options.model, options.out, budget=budget)
    for recognizer, rows in results.items():
        print(recognizer)
        times = {name: row["ms"] for name, row in rows.items() if "ms" in row}
        print_rows({n: {k: v for k, v in r.items() if k != "ms"} for n, r in rows.items()})
        print("ms an image:", ", ".join(f"{name} {ms:.1f}" for name, ms in times.items()))


def _opened_ais(folder: str) -> AisNet:
    net = open_run(folder)
    if not isinstance(net, AisNet):
        raise OptionError(f"expected a run of ais, got another's: {folder}")
    return net
