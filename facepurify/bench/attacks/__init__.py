"""Attacks on embeddings, one module each; ``get_attack`` makes them by name."""

from __future__ import annotations

import re

from facepurify.bench.attacks.apgd import APGD
from facepurify.bench.attacks.base import GOALS, Attack, Embed, Goal, Norm
from facepurify.bench.attacks.blocks import Blocks, GreyBlocks
from facepurify.bench.attacks.dim import DIM
from facepurify.bench.attacks.feature_target import FeatureTarget, LabelFree
from facepurify.bench.attacks.fgsm import FGSM
from facepurify.bench.attacks.graded import Graded
from facepurify.bench.attacks.grains import Grains
from facepurify.bench.attacks.grey import Grey
from facepurify.bench.attacks.mim import MIM
from facepurify.bench.attacks.minimal import Minimal, minimal_attack, succeeds
from facepurify.bench.attacks.pgd import PGD
from facepurify.bench.attacks.reversed import Reversed
from facepurify.bench.attacks.square import Square
from facepurify.bench.attacks.stripes import Stripes
from facepurify.bench.attacks.tim import TIM
from facepurify.errors import AttackError

__all__ = [
    "APGD",
    "DIM",
    "FGSM",
    "GOALS",
    "MIM",
    "PGD",
    "TIM",
    "Attack",
    "Blocks",
    "Embed",
    "FeatureTarget",
    "Goal",
    "Graded",
    "Grains",
    "Grey",
    "GreyBlocks",
    "LabelFree",
    "Minimal",
    "Norm",
    "Reversed",
    "Square",
    "Stripes",
    "get_attack",
    "minimal_attack",
    "succeeds",
]

_FAMILIES: dict[str, type[Attack]] = {
    cls.family: cls
    for cls in (
        FGSM,
        PGD,
        MIM,
        DIM,
        TIM,
        Blocks,
        Graded,
        Grey,
        GreyBlocks,
        Stripes,
        Grains,
        APGD,
        Reversed,
        Square,
        FeatureTarget,
        LabelFree,
    )
}


def get_attack(name: str) -> Attack:
    """Makes an attack by name: its family, a number of steps or queries, "-l2" for that norm.

    Raises:
        AttackError: unknown name.

    >>> get_attack("pgd40")
    PGD(norm='linf', steps=40, random_start=True)
    >>> get_attack("mim20-l2").name
    'mim20-l2'
    """
    match = re.fullmatch(r"([a-z_]+?)(\d*)(-l2)?", name)
    family = _FAMILIES.get(match[1]) if match else None
    if match is None or family is None or (match[2] and not family.count):
        known = ", ".join(sorted(cls().name for cls in _FAMILIES.values()))
        raise AttackError(f"unknown attack {name!r}: expected a name such as {known}")
    number = {family.count: int(match[2])} if match[2] else {}
    return family(norm="l2" if match[3] else "linf", **number)
