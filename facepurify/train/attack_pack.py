"""A pack of attacked training faces: made once, used by every purifier that is trained.

The attacks know the guide recognizers and no purifier (they are oblivious), so they need not be
made anew at each step; that costs most of the time of a training run on a small machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from facepurify.bench.attacks import GOALS, Attack, get_attack
from facepurify.bench.cache import Cache, digest, source_digest
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import DataError, OptionError, OutputExistsError
from facepurify.files import atomic_path
from facepurify.train.arrays import read_arrays
from facepurify.train.delivery import with_history
from facepurify.train.faces import FaceSet

__all__ = [
    "KINDS",
    "STRENGTHS",
    "AttackPack",
    "Batch",
    "check_guides",
    "check_parts",
    "make_pack",
    "turned",
    "write_pack",
]

STRENGTHS = (2, 3, 4, 6, 8, 8, 8, 10, 12)
SAME = 1e-3  # as torch and ONNX Runtime may differ on a recognizer
ASKED = 32  # faces that tell a guide from another of its name
# Four fifths are of a coarse grain, slight or without colour: those are the hardest to find.
KINDS = {
    "fgsm": 0.05, "pgd": 0.08, "mim": 0.03, "dim": 0.03, "tim": 0.02,
    "blocks": 0.2, "graded": 0.13, "grey": 0.12, "grey_blocks": 0.12, "stripes": 0.08,
    "grains": 0.14,
}  # fmt: skip
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AttackPack:
    """Clean faces, an attack on each, and what the guides see in the clean ones.

    Attributes:
        clean: uint8 [N, 3, 112, 112] RGB.
        attacked: the same faces under attack.
        embeddings: for each of the G guides float32 [2, N, d], unit, of the clean faces as they
            are and mirrored; the guides' lengths d may differ.
        strength: float32 [N], L-infinity eps in units of 1/255.
        guides: the G recognizers' names.
        victim: uint8 [N], which of them each face was attacked on.
    """

    clean: Bytes
    attacked: Bytes
    embeddings: tuple[Floats, ...]
    strength: Floats
    guides: tuple[str, ...]
    victim: Bytes

    def __len__(self) -> int:
        return len(self.clean)

    @cached_property
    def digest(self) -> str:
        """Of the images and of what the guides see in them, in hexadecimal."""
        names = "\0".join(self.guides)
        return digest(
            names, self.clean, self.attacked, *self.embeddings, self.strength, self.victim
        )

    def sources(self, guides: Sequence[Recognizer]) -> dict[str, str]:
        """What a run on it is made of, with these of its guides, for :class:`Loop`."""
        return {"attacks": self.digest, "guides": ", ".join(each.sha256 for each in guides)}

    def every(self, step: int) -> AttackPack:
        """Each so-manieth face, so that all attacks are among them; views, not copies."""
        return replace(
            self, clean=self.clean[::step], attacked=self.attacked[::step],
            embeddings=tuple(each[:, ::step] for each in self.embeddings),
            strength=self.strength[::step], victim=self.victim[::step],
        )  # fmt: skip

    def images(self, rows: Tensor, *, mirrored: bool) -> tuple[Tensor, Tensor]:
        """Some faces, clean and attacked: [n, 3, 112, 112] in [0, 1] each."""
        clean, attacked = (
            torch.from_numpy(array[rows.numpy()]).float() / 255
            for array in (self.clean, self.attacked)
        )
        return (clean.flip(3), attacked.flip(3)) if mirrored else (clean, attacked)

    def draw(self, count: int, generator: torch.Generator, victim: int | None = None) -> Batch:
        """A training step's faces, mirrored all or none, of mixed histories.

        Args:
            count: how many.
            generator: of all that is random.
            victim: only those that were attacked on this one of the guides.
        """
        among = torch.arange(len(self)) if victim is None else self._attacked_on(victim)
        rows = among[torch.randint(len(among), (count,), generator=generator)]
        mirrored = bool(torch.randint(2, (), generator=generator))
        return Batch(
            rows, mirrored, *with_history(*self.images(rows, mirrored=mirrored), generator)
        )

    def embedded(self, guide: int, rows: Tensor, *, mirrored: bool) -> Tensor:
        """What one guide sees in the clean faces that ``images`` gives: [n, d], unit."""
        return torch.from_numpy(self.embeddings[guide][int(mirrored), rows.numpy()])

    def check_victims(self, guides: Sequence[int]) -> None:
        """Sees to it that there are attacks on each of these guides.

        Raises:
            OptionError: there are none on one of them.
        """
        for guide in guides:
            if not len(self._attacked_on(guide)):
                raise OptionError(
                    f"expected attacks on {self.guides[guide]} in the pack, got none: "
                    "make one of more faces"
                )

    def _made_on(self) -> str:
        """The guides' names, and how long their embeddings are."""
        each = zip(self.guides, self.embeddings, strict=True)
        return ", ".join(f"{name} ({values.shape[-1]})" for name, values in each)

    def _attacked_on(self, guide: int) -> Tensor:
        return torch.from_numpy(np.flatnonzero(self.victim == guide))

    def index(self, guide: Recognizer) -> int:
        """Which of the pack's guides that is: by its name, and by what it sees in some faces.

        Those are spread over the pack, since packs that are put together may differ in it.

        Raises:
            OptionError: none of them, or another recognizer of the same name.
        """
        if guide.name not in self.guides:
            raise OptionError(
                f"expected one of the pack's guides {', '.join(self.guides)}, got {guide.name}"
            )
        place = self.guides.index(guide.name)
        some = self.every(-(-len(self) // ASKED))
        known = some.embeddings[place][0]
        seen = guide.embed_numpy((some.clean / 255).astype(np.float32))
        if seen.shape != known.shape or not np.allclose(seen, known, atol=SAME):
            raise OptionError(
                f"expected the {guide.name} that the pack's attacks were made on, got another "
                "recognizer of that name: make the attacks anew"
            )
        return place

    def save(self, path: str | Path) -> None:
        """Writes an uncompressed .npz of plain arrays."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "clean": self.clean,
            "attacked": self.attacked,
            "strength": self.strength,
            "guides": np.array(self.guides),
            "victim": self.victim,
            **{f"embeddings{i}": each for i, each in enumerate(self.embeddings)},
        }
        with atomic_path(path) as temporary:
            np.savez(temporary, allow_pickle=False, **arrays)

    @staticmethod
    def load(path: str | Path) -> AttackPack:
        """Reads what ``save`` wrote.

        Raises:
            DataError: the file is missing or no such pack.
        """
        names = ("clean", "attacked", "strength", "guides", "victim")
        clean, attacked, strength, guides, victim = read_arrays(path, names, "attacks")
        each = tuple(f"embeddings{i}" for i in range(len(guides)))
        embeddings = tuple(read_arrays(path, each, "attacks"))
        return AttackPack(clean, attacked, embeddings, strength, tuple(guides.tolist()), victim)

    @staticmethod
    def joined(packs: Sequence[AttackPack]) -> AttackPack:
        """One pack of the faces of all of these, in order.

        Raises:
            OptionError: they were not made on the same guides, named in the same order.
        """
        made_on = dict.fromkeys(pack._made_on() for pack in packs)
        if len(made_on) > 1:
            raise OptionError(
                "expected packs of attacks on the same guides in the same order, got "
                + " and ".join(made_on)
            )
        if len(packs) == 1:
            return packs[0]  # not a copy
        return AttackPack(
            np.concatenate([pack.clean for pack in packs]),
            np.concatenate([pack.attacked for pack in packs]),
            tuple(
                np.concatenate(each, axis=1)
                for each in zip(*(pack.embeddings for pack in packs), strict=True)
            ),
            np.concatenate([pack.strength for pack in packs]),
            packs[0].guides,
            np.concatenate([pack.victim for pack in packs]),
        )


class Batch(NamedTuple):
    """Faces of a pack: which, mirrored or not, clean and attacked [n, 3, 112, 112] in [0, 1]."""

    rows: Tensor
    mirrored: bool
    clean: Tensor
    attacked: Tensor


def make_pack(
    faces: FaceSet,
    guides: Sequence[Recognizer],
    count: int,
    *,
    kinds: Mapping[str, float] = KINDS,
    strengths: Sequence[int] = STRENGTHS,
    seed: int = 0,
    batch: int = 32,
    kept: Cache | None = None,
) -> AttackPack:
    """Attacks ``count`` random training faces on the guides in turn.

    Every batch has generators of its own made from (seed, its number), so that a pack which goes on
    from batches that were kept is the one that would have been made at once.

    Goals and strengths are mixed. ``kinds`` are families of
    ``facepurify.bench.attacks`` with their shares; those that iterate take 2 to 8 steps. The
    anchor of an impersonation is another face of the pack. Few sets have identities, so that of a
    dodging is the face's own embedding turned by about 40 degrees: as far as another photo of the
    same person usually lies.

    Args:
        faces: those that are not held out may be attacked.
        guides: to attack.
        count: faces.
        kinds: of attack, with their shares.
        strengths: to draw from, L-infinity in units of 1/255; what stands there twice is drawn
            twice as often.
        seed: of everything random.
        batch: faces to attack at once.
        kept: finished batches, of this very pack or not, and where to keep those of this one.

    Raises:
        DataError: there are fewer training faces than ``count``, or none is asked for, or no guide.
        AttackError: an unknown kind.
        OptionError: shares that are no probabilities, strengths below 1 or above the highest of
            ``STRENGTHS``, or different guides of one name.
    """
    rng = np.random.default_rng(seed)
    candidates = faces.training
    if not (guides and 0 < count <= len(candidates)):
        raise DataError(
            f"expected at least one guide, and from 1 to {len(candidates)} training faces to "
            f"attack, got {len(guides)} and {count}"
        )
    check_guides(guides)
    names, shares = list(kinds), np.array(list(kinds.values()))
    if not (len(names) and (shares >= 0).all() and shares.sum() > 0):
        raise OptionError(f"expected kinds of attack with shares of 0 or more, got {dict(kinds)}")
    shares = shares / shares.sum()
    if not (strengths and min(strengths) >= 1 and max(strengths) <= max(STRENGTHS)):
        raise OptionError(
            f"expected strengths from 1 to {max(STRENGTHS)} of 255, got {list(strengths)}"
        )
    chosen = np.sort(rng.choice(candidates, count, replace=False))
    clean = np.ascontiguousarray(faces.images[chosen].transpose(0, 3, 1, 2))[rng.permutation(count)]
    embeddings = tuple(_embed_both_ways(guide, clean) for guide in guides)
    attacked = np.empty_like(clean)
    victim = (np.arange(count) // batch % len(guides)).astype(np.uint8)
    strength = rng.choice(strengths, count).astype(np.float32)
    settings = {
        "faces": faces.digest, "guides": [guide.sha256 for guide in guides], "count": count,
        "kinds": dict(kinds), "strengths": list(strengths), "seed": seed, "batch": batch,
        "code": source_digest("bench/attacks/*.py", "train/attack_pack.py"),
    }  # fmt: skip
    starts = range(0, count, batch)
    for number, start in enumerate(tqdm(starts, desc="attacking faces", unit="batch")):
        rows = slice(start, min(start + batch, count))
        key = digest(settings, str(number))
        if kept is not None and (made := kept.get(key)) is not None:
            attacked[rows] = made["attacked"]
            continue
        rng = np.random.default_rng([seed, number])
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 32)))
        which = int(victim[start])
        own = torch.from_numpy(embeddings[which][0])
        goal = GOALS[number // len(guides) % 2]
        if goal == "impersonation":
            places = np.arange(start, rows.stop)
            anchor = own[torch.from_numpy((places + rng.integers(1, count, len(places))) % count)]
        else:
            anchor = turned(own[rows], generator)
        attack = _with_steps(str(rng.choice(names, p=shares)), int(rng.integers(2, 9)))
        x = torch.from_numpy(clean[rows]).float() / 255
        result = attack(
            guides[which].embed, x, anchor, goal, torch.from_numpy(strength[rows]),
            generator=generator,
        )  # fmt: skip
        attacked[rows] = (result * 255).round().byte().numpy()
        if kept is not None:
            kept.put(key, {"attacked": attacked[rows]})
    return AttackPack(clean, attacked, embeddings, strength, tuple(g.name for g in guides), victim)


def write_pack(
    path: str | Path,
    faces: FaceSet,
    guides: Sequence[Recognizer],
    count: int,
    *,
    kinds: Mapping[str, float] = KINDS,
    strengths: Sequence[int] = STRENGTHS,
    seed: int = 0,
) -> None:
    """Writes what ``make_pack`` makes, going on from what it finished before it was stopped.

    Until the pack is whole its batches lie beside it, in ``path``.parts.
    """
    parts = _parts(path)
    made = make_pack(
        faces, guides, count, kinds=kinds, strengths=strengths, seed=seed, kept=Cache(parts)
    )
    made.save(path)
    shutil.rmtree(parts)


def check_parts(path: str | Path) -> None:
    """Sees to it that a new pack can be begun there.

    Raises:
        OutputExistsError: ``write_pack`` was stopped there.
    """
    if (parts := _parts(path)).exists():
        raise OutputExistsError(
            f"{parts} holds a part of a pack already: continue it with --resume, remove it, or "
            "name another file"
        )


def _parts(path: str | Path) -> Path:
    return Path(f"{path}.parts")


def check_guides(guides: Sequence[Recognizer]) -> None:
    """Refuses different recognizers of one name, which a pack or a table could not tell apart.

    Raises:
        OptionError: two are.
    """
    named: dict[str, Recognizer] = {}
    for guide in guides:
        if named.setdefault(guide.name, guide).sha256 != guide.sha256:
            raise OptionError(
                f"expected guides of different names, got two called {guide.name}: rename a file"
            )


def _embed_both_ways(guide: Recognizer, images: Bytes) -> Floats:
    parts = []
    for start in tqdm(range(0, len(images), 64), desc=f"faces by {guide.name}", unit="batch"):
        part = (images[start : start + 64] / 255).astype(np.float32)
        parts.append(np.stack([guide.embed_numpy(part), guide.embed_numpy(part[..., ::-1])]))
    return np.concatenate(parts, axis=1)


def _with_steps(family: str, steps: int) -> Attack:
    attack = get_attack(family)
    if attack.count != "steps" or family[-1].isdigit():  # a number that was asked for stays
        return attack
    return get_attack(f"{family}{steps}")


def turned(embeddings: Tensor, generator: torch.Generator) -> Tensor:
    """Unit embeddings [N, d] turned by about 40 degrees, each its own way.

    That is about as far as another photo of the same person lies.
    """
    noise = torch.randn(embeddings.shape, generator=generator).to(embeddings.device)
    sideways = torch.nn.functional.normalize(noise, dim=1)
    return torch.nn.functional.normalize(0.75 * embeddings + 0.65 * sideways, dim=1)
