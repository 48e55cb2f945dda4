"""Fits a shipped denoiser to the recognizer that it will stand in front of."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from facepurify.bench.defences import get_defence
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import OptionError
from facepurify.files import check_folder
from facepurify.purifier import Purifier
from facepurify.train.attack_pack import AttackPack, make_pack
from facepurify.train.choose import Purify, Trial, after, held_out_trial, oblivious, on_arrays
from facepurify.train.export import calibrate, export_purifier
from facepurify.train.faces import FaceSet
from facepurify.train.fit_uddn import UddnRecipe, fit_uddn
from facepurify.train.loop import check_free
from facepurify.train.overshoot import CHOSEN, ONCE, Factors
from facepurify.train.recover import recover_uddn
from facepurify.train.runs import describe_denoiser
from facepurify.train.uddn import UddnNet
from facepurify.weights import read_model

__all__ = ["ATTACKS", "AdaptRecipe", "adapt"]

ATTACKS = oblivious(steps=10)
PACKING = 0.35  # of the time that is left for attacking and training
# What the shipped denoiser learned from last. With half as many in blocks without colour, and at
# three times the rate, it forgets these (see the card of immune).
MIX = {
    "fgsm": 0.04, "pgd": 0.06, "mim": 0.02, "dim": 0.03, "tim": 0.02,
    "blocks": 0.15, "graded": 0.1, "grey": 0.09, "grey_blocks": 0.25, "stripes": 0.06,
    "grains": 0.18,
}  # fmt: skip
MOSTLY_WEAK = (2, 2, 3, 3, 4, 4, 6, 8, 8, 10)  # they are harder to find
CHEAP, CHEAP_PACKING = {"fgsm": 1.0}, 0.05
PROBE = 32
PROBE_STEPS = 5  # the first, which also warms up, is not timed
STORED = "jpeg90"


@dataclass(frozen=True)
class AdaptRecipe:
    """How a denoiser is adapted.

    Attributes:
        minutes: for all of it: measuring, attacking, training, measuring again.
        batch: images a step.
        rate: peak learning rate.
        fresh: share of the steps whose attacks are made in the step.
        rehearse: steps of those through the purifier itself, for one that was trained so; 0 for
            oblivious ones.
        recompressed: share of all images, attacked or not, that go through JPEG last.
        overshoot: how many times the noise that the denoiser finds is taken off in the end: of
            fine luma, fine chroma, and what is coarse.
        pairs: clean held-out pairs of each kind to measure with.
        attacked: attacked ones.
    """

    minutes: float = 30.0
    batch: int = 32
    rate: float = 3e-4
    fresh: float = 0.25
    rehearse: int = 0
    recompressed: float = 0.6
    overshoot: Factors = CHOSEN
    pairs: int = 1000
    attacked: int = 200

    def __post_init__(self) -> None:
        if not (self.minutes > 0 and self.rate > 0):
            raise OptionError(
                f"expected minutes and rate above 0, got {self.minutes} and {self.rate}"
            )
        if self.batch < 2 or min(self.pairs, self.attacked) < 1:
            raise OptionError(
                "expected a batch of 2 or more, pairs and attacked of 1 or more, "
                f"got {self.batch}, {self.pairs} and {self.attacked}"
            )
        self.settings()  # it refuses the rest
        if self.rehearse and (self.fresh < 1 or self.overshoot != ONCE):
            raise OptionError(
                "expected fresh and overshoot of 1 with rehearse, since what is rehearsed is the "
                f"purifier as it will be, got {self.fresh} and {self.overshoot}"
            )

    def settings(self) -> UddnRecipe:
        """How the denoiser is trained, but for the number of steps."""
        if self.rehearse:  # see the card of uddn
            return UddnRecipe(
                batch=self.batch, rate=self.rate, fresh=self.fresh, rehearse=self.rehearse,
                recompressed=self.recompressed, settled=True,
                pixel=0.002, clean=0.4, noisy=0, band=0,
            )  # fmt: skip
        # Those of the shipped one. With the projection's own price of noise the recognizer has less
        # of a say, and a third of the gain was left (see the card of immune).
        return UddnRecipe(
            batch=self.batch, rate=self.rate, fresh=self.fresh,
            recompressed=self.recompressed, settled=True,
            distance="l1", pixel=0.002, lean=1, clean=0.12, noisy=0, band=0.03, square=0.08,
            grey=0.1,
        )  # fmt: skip


def adapt(
    recognizer: Recognizer,
    faces: FaceSet,
    model: str,
    recipe: AdaptRecipe,
    folder: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Fine-tunes a denoiser on attacks on one recognizer, and writes it.

    The time is shared out by measuring: how long a few attacks and a few steps take decides how
    many faces are attacked and how many steps are taken.

    Args:
        recognizer: to attack, and to guide.
        faces: those held out are measured with; at least two of their identities need several
            images.
        model: a shipped denoiser's name, or the file of one.
        recipe: how.
        folder: of the run; it must hold none.
        out: the ONNX file.
        seed: of everything random.

    Returns:
        For "none", "before" and "after", the genuine pairs rejected and the success of each
        attack made without knowledge of the purifier, as fractions, on held-out faces; and the same
        once more where all of these arrive as JPEG files.

    Raises:
        ModelContractError: the model is no denoiser of ours.
        DataError: too few faces.
        OutputExistsError: the folder holds a run.
        OutputError: there is no folder to write the file into.
    """
    check_free(folder)
    check_folder(out)
    end = time.monotonic() + 60 * recipe.minutes
    file = read_model(model)
    net = recover_uddn(file.content)
    trial = held_out_trial(
        faces, recognizer, attacks=ATTACKS, pairs=recipe.pairs, attacked=recipe.attacked, seed=seed
    )
    start = time.monotonic()
    rows = _judged(trial, "before", on_arrays(Purifier(model, threads=torch.get_num_threads())))
    end -= time.monotonic() - start  # as long as it will take to judge the result
    settings = recipe.settings()
    pack = _pack_for(end - time.monotonic(), recognizer, faces, settings, seed)
    seconds = _seconds_a_step(file.content, pack, recognizer, settings)
    steps = max(1, int((end - time.monotonic()) / seconds))
    describe_denoiser(folder, net)  # so that `export` can write it with another overshoot, too
    fit_uddn(net, pack, [recognizer], replace(settings, steps=steps), folder, seed=seed)
    net.overshoot(recipe.overshoot)
    out = Path(out)  # as a string it might be a shipped model's name
    export_purifier(net, out)
    calibrate(out, faces)
    rows |= _judged(trial, "after", on_arrays(Purifier(out, threads=torch.get_num_threads())))
    unprotected = _judged(trial, "none", lambda images: images)
    return unprotected | rows


def _judged(trial: Trial, when: str, purify: Purify) -> dict[str, dict[str, float]]:
    stored = after(get_defence(STORED).purify, purify)
    return {when: trial.judge(purify), f"{when}, as {STORED}": trial.judge(stored)}


def _pack_for(
    left: float, recognizer: Recognizer, faces: FaceSet, settings: UddnRecipe, seed: int
) -> AttackPack:
    """Attacks as many faces as there is time for, of ``left`` seconds.

    Where all attacks are made in the steps, its own are not looked at, so they are cheap ones.
    """
    packing, kinds = (PACKING, MIX) if settings.fresh < 1 else (CHEAP_PACKING, CHEAP)
    attack = partial(make_pack, faces, [recognizer], kinds=kinds, strengths=MOSTLY_WEAK, seed=seed)
    most = len(faces.training)
    few = min(PROBE, most)
    start = time.monotonic()
    attack(few)
    each = (time.monotonic() - start) / few
    count = min(most, max(few, int(packing * left / each)))
    return attack(count)


def _seconds_a_step(
    content: bytes, pack: AttackPack, recognizer: Recognizer, settings: UddnRecipe
) -> float:
    """Takes a few steps on a copy, with fresh attacks and others as far as both will happen.

    From the end of the first step to that of the last: what a run costs besides its steps, such as
    its checkpoint and curve, it costs seldom.
    """
    net: UddnNet = recover_uddn(content)
    seconds = 0.0
    for fresh, share in ((0.0, 1 - settings.fresh), (1.0, settings.fresh)):
        if not share:
            continue
        rehearse = settings.rehearse if fresh else 0
        probe = replace(settings, fresh=fresh, rehearse=rehearse, steps=PROBE_STEPS)
        with tempfile.TemporaryDirectory() as folder, _step_ends() as ends:
            fit_uddn(net, pack, [recognizer], probe, folder)
        seconds += share * (ends[-1] - ends[0]) / (len(ends) - 1)
    return seconds


@contextmanager
def _step_ends() -> Iterator[list[float]]:
    """Notes when each step of an optimiser ended."""
    ends: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: ends.append(time.monotonic()))
    try:
        yield ends
    finally:
        hook.remove()
