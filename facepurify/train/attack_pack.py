"""A pack of attacked training faces: made once, used by every purifier that is trained.

The attacks know the guide recognizers and no purifier (they are oblivious), so they need not be
made anew at each step; that costs most of the time of a training run on a small machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from facepurify.bench.attacks import FGSM, GOALS, MIM, PGD
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import DataError
from facepurify.files import atomic_path
from facepurify.train.arrays import read_arrays
from facepurify.train.faces import FaceSet

__all__ = ["AttackPack", "make_pack"]

STRENGTHS = (2, 3, 4, 6, 8, 8, 8, 10, 12)
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AttackPack:
    """Clean faces, an attack on each, and what the guides see in the clean ones.

    Attributes:
        clean: uint8 [N, 3, 112, 112] RGB.
        attacked: the same faces under attack.
        embeddings: float32 [G, 2, N, d], unit, of the clean faces as they are and mirrored.
        strength: float32 [N], L-infinity eps in units of 1/255.
        guides: the G recognizers' names.
    """

    clean: Bytes
    attacked: Bytes
    embeddings: Floats
    strength: Floats
    guides: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.clean)

    def save(self, path: str | Path) -> None:
        """Writes an uncompressed .npz of plain arrays."""
        with atomic_path(path) as temporary:
            np.savez(
                temporary,
                clean=self.clean,
                attacked=self.attacked,
                embeddings=self.embeddings,
                strength=self.strength,
                guides=np.array(self.guides),
            )

    @staticmethod
    def load(path: str | Path) -> AttackPack:
        """Reads what ``save`` wrote.

        Raises:
            DataError: the file is missing or no such pack.
        """
        names = ("clean", "attacked", "embeddings", "strength", "guides")
        clean, attacked, embeddings, strength, guides = read_arrays(path, names, "attacks")
        return AttackPack(clean, attacked, embeddings, strength, tuple(guides.tolist()))


def make_pack(
    faces: FaceSet,
    guides: Sequence[Recognizer],
    count: int,
    *,
    seed: int = 0,
    batch: int = 32,
) -> AttackPack:
    """Attacks ``count`` random training faces on the guides in turn.

    Kinds (FGSM, PGD and MIM of 2 to 8 steps), goals and strengths (2 to 12 of 255) are mixed. The
    anchor of an impersonation is another face of the pack. Few sets have identities, so that of a
    dodging is the face's own embedding turned by about 40 degrees: as far as another photo of the
    same person usually lies.

    Raises:
        DataError: there are fewer training faces than ``count``, or no guide.
    """
    rng = np.random.default_rng(seed)
    candidates = faces.training
    if not guides or count > len(candidates):
        raise DataError(
            f"expected at least one guide and {count} training faces, "
            f"got {len(guides)} and {len(candidates)}"
        )
    chosen = np.sort(rng.choice(candidates, count, replace=False))
    clean = np.ascontiguousarray(faces.images[chosen].transpose(0, 3, 1, 2))[rng.permutation(count)]
    embeddings = np.stack([_embed_both_ways(guide, clean) for guide in guides])
    attacked = np.empty_like(clean)
    strength = rng.choice(STRENGTHS, count).astype(np.float32)
    generator = torch.Generator().manual_seed(seed)
    starts = range(0, count, batch)
    for number, start in enumerate(tqdm(starts, desc="attacking faces", unit="batch")):
        rows = slice(start, min(start + batch, count))
        which = number % len(guides)
        own = torch.from_numpy(embeddings[which, 0])
        goal = GOALS[number // len(guides) % 2]
        anchor = (
            own[torch.from_numpy(rng.integers(0, count, rows.stop - start))]
            if goal == "impersonation"
            else _turned(own[rows], generator)
        )
        steps = int(rng.integers(2, 9))
        attack = (FGSM(), PGD(steps=steps), MIM(steps=steps))[rng.choice(3, p=(0.3, 0.5, 0.2))]
        x = torch.from_numpy(clean[rows]).float() / 255
        result = attack(
            guides[which].embed, x, anchor, goal, torch.from_numpy(strength[rows]),
            generator=generator,
        )  # fmt: skip
        attacked[rows] = (result * 255).round().byte().numpy()
    return AttackPack(clean, attacked, embeddings, strength, tuple(g.name for g in guides))


def _embed_both_ways(guide: Recognizer, images: Bytes) -> Floats:
    return np.stack(
        [
            np.concatenate(
                [
                    guide.embed_numpy(
                        (images[start : start + 64, :, :, ::step] / 255).astype(np.float32)
                    )
                    for start in range(0, len(images), 64)
                ]
            )
            for step in (1, -1)
        ]
    )


def _turned(embeddings: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(embeddings.shape, generator=generator)
    sideways = torch.nn.functional.normalize(noise, dim=1)
    return torch.nn.functional.normalize(0.75 * embeddings + 0.65 * sideways, dim=1)
