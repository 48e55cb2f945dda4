"""The steps of a run that take time, each kept on disk by its content.

Every step works through its images in chunks, and each chunk is kept as soon as it is done: a run
that is stopped loses at most one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from facepurify.bench import metrics
from facepurify.bench.adaptive import AdaptiveAttack, Scene, defended, self_checks
from facepurify.bench.attacks import PGD, Attack, Goal, Norm, minimal_attack
from facepurify.bench.attacks.base import Best
from facepurify.bench.cache import Arrays, Cache, digest, source_digest
from facepurify.bench.defences import Defence
from facepurify.bench.progress import Progress
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.results import CheckResult

__all__ = [
    "CHECKED",
    "CHECK_PASSES",
    "Faces",
    "Seen",
    "Steps",
    "Target",
    "distance_cost",
    "to_bytes",
    "to_float",
]

CHUNK = 32
CHECKED = 16
CHECK_PASSES = 92
DISTANCE_STEPS = 10
LARGEST: dict[Norm, float] = {"linf": 64.0, "l2": 4096.0}

_Images = NDArray[np.uint8]
_Floats = NDArray[np.float32]


class Seen(NamedTuple):
    """What a recognizer and the defence before it make of N images.

    Attributes:
        embeddings: Unit vectors [N, d].
        suspicion: The defence's score [N]; None where it gives none.
    """

    embeddings: _Floats
    suspicion: _Floats | None


def _code(*patterns: str) -> str:
    """Digest source files, this one, and the versions of what computes."""
    versions = (f"{each.__name__} {each.__version__}" for each in (cv2, np, onnxruntime, torch))
    return digest(source_digest("bench/steps.py", *patterns), *versions)


class Faces(NamedTuple):
    """What an attack works on.

    Attributes:
        probes: uint8 [N, 112, 112, 3], RGB.
        anchors: Unit embeddings of the gallery faces that they are compared with, [N, d].
    """

    probes: _Images
    anchors: _Floats

    def chunks(self) -> Iterator[Faces]:
        """Yield the same in chunks."""
        for start in range(0, len(self.probes), CHUNK):
            yield self.part(start, start + CHUNK)

    def part(self, start: int, stop: int) -> Faces:
        """Return some of them."""
        return Faces(self.probes[start:stop], self.anchors[start:stop])

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return probes, float32 [N, 3, 112, 112] in [0, 1], and anchors."""
        return torch.from_numpy(to_float(self.probes)), torch.from_numpy(self.anchors)


class Target(NamedTuple):
    """A recognizer behind a defence, and what an attacker wants of some faces there."""

    recognizer: Recognizer
    defence: Defence
    faces: Faces
    goal: Goal

    @property
    def pipeline(self) -> str:
        """Names, by content, defence and recognizer."""
        return f"{self.defence.key()} | {self.recognizer.sha256}"

    def scene(self, faces: Faces) -> Scene:
        """Return some of its faces as the adaptive attack takes them."""
        return Scene(self.recognizer, self.defence, *faces.tensors(), self.goal)


class Steps:
    """Embedding, attacking and comparing, kept in a cache.

    Args:
        cache: Where finished chunks are kept.
        progress: Told of every pass of an image through a network.
        seed: All randomness of the attacks.
    """

    def __init__(self, cache: Cache, progress: Progress, seed: int) -> None:
        self._cache = cache
        self._progress = progress
        self._seed = seed
        defending = (
            "*.py",
            *(f"bench/{name}.py" for name in ("defences", "baselines", "conversion")),
            *(f"bench/attacks/{name}.py" for name in ("dim", "tim")),  # baselines use them
        )
        self._judging = _code(*defending, "bench/recognizers.py")
        self._comparing = _code("bench/metrics.py")
        self._met: set[str] = set()
        self._adapting = _code(*defending, "bench/adaptive.py")
        self._attacking = _code("bench/attacks/*.py", "bench/recognizers.py", "bench/conversion.py")

    def phase(self, text: str) -> None:
        """Say in the progress bar what is being done now."""
        self._progress.phase(text)

    def see(self, images: _Images, recognizer: Recognizer, defence: Defence) -> Seen:
        """Embed images, uint8 [N, 112, 112, 3], as they come out of the defence."""
        chunks = []
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            key = digest(
                chunk,
                {
                    "step": "see",
                    "recognizer": recognizer.sha256,
                    "defence": defence.key(),
                    "seed": self._seed,
                    "code": self._judging,
                },
            )

            def make(chunk: _Images = chunk) -> Arrays:
                purified, suspicion = defence.purify_and_score(
                    to_float(chunk), seed=self._draw(chunk)
                )
                made: Arrays = {"embeddings": recognizer.embed_numpy(purified)}
                return made if suspicion is None else {**made, "suspicion": suspicion}

            chunks.append(self._kept(key, make, len(chunk)))
        embeddings = np.concatenate([chunk["embeddings"] for chunk in chunks])
        if "suspicion" not in chunks[0]:
            return Seen(embeddings, None)
        return Seen(embeddings, np.concatenate([chunk["suspicion"] for chunk in chunks]))

    def stored(self, images: _Images, storage: Defence) -> _Images:
        """Return images as they arrive from such a store, rounded to 8 bits."""
        return to_bytes(storage.purify(to_float(images), seed=self._draw(images)))

    def attack(
        self, attack: Attack, recognizer: Recognizer, faces: Faces, goal: Goal, eps: float
    ) -> _Images:
        """Return what an attack on the bare recognizer makes of the probes.

        Args:
            attack: What to run.
            recognizer: What it is made on.
            faces: What it works on.
            goal: What to reach.
            eps: The budget, in grey levels.
        """

        def run(chunk: Faces) -> torch.Tensor:
            return attack(
                recognizer.embed, *chunk.tensors(), goal, eps, generator=self._generator()
            )

        about = {"attack": attack.key(), "pipeline": recognizer.sha256, "goal": goal, "eps": eps}
        return self._attacked(about, run, faces, attack.cost)

    def query(self, attack: Attack, target: Target, eps: float) -> _Images:
        """Return what a black-box attack makes of the probes, asking the defended recognizer."""
        recognizer, defence, faces, goal = target

        def embed(images: torch.Tensor) -> torch.Tensor:
            floats = images.numpy()
            draw = self._draw(floats) if defence.random else 0
            return torch.from_numpy(recognizer.embed_numpy(defence.purify(floats, seed=draw)))

        def run(chunk: Faces) -> torch.Tensor:
            return attack(embed, *chunk.tensors(), goal, eps, generator=self._generator())

        about = self._about(target, attack=attack.key(), eps=eps)
        return self._attacked(about, run, faces, attack.cost)

    def adaptive(self, attack: AdaptiveAttack, target: Target, eps: float) -> _Images:
        """Return what an adaptive attack makes of the probes, going through the defence."""

        def run(chunk: Faces) -> torch.Tensor:
            return attack(target.scene(chunk), eps, generator=self._generator())

        about = self._about(target, attack=attack.key(), eps=eps)
        return self._attacked(about, run, target.faces, attack.cost(target.defence))

    def strongest(self, target: Target, candidates: Sequence[_Images], draws: int) -> _Images:
        """Return for each probe the one of its attacked versions that goes furthest.

        Judged over several draws of a random defence, none of which is the one reported.
        """
        scene = target.scene(target.faces)
        seeds = range(self._seed, self._seed + draws)
        sign = -1 if target.goal == "dodging" else 1
        best = Best(scene.x, torch.full((len(scene.x),), -torch.inf))
        for images in candidates:
            levels = torch.from_numpy(to_float(images))
            best.update(levels, sign * scene.cosine(levels, seeds))
        return to_bytes(best.levels.numpy())

    def distance(self, target: Target, norm: Norm, threshold: float, draws: int) -> float | None:
        """Return the median smallest change, in grey levels, that succeeds through the defence.

        None where most faces withstand the largest change that is tried.
        """
        recognizer, defence, faces, goal = target
        attack = PGD(norm, steps=DISTANCE_STEPS)
        largest, resolution = LARGEST[norm], LARGEST[norm] / 64
        about = self._about(
            target,
            attack=attack.key(),
            threshold=threshold,
            draws=draws,
            largest=largest,
            resolution=resolution,
        )
        distances = []
        for chunk in faces.chunks():

            def make(chunk: Faces = chunk) -> Arrays:
                generator = self._generator()
                found = minimal_attack(
                    attack,
                    defended(recognizer, defence, draws=draws, generator=generator),
                    *chunk.tensors(),
                    goal,
                    threshold=threshold,
                    largest=largest,
                    resolution=resolution,
                    generator=generator,
                )
                return {"distance": found.distance.numpy()}

            key = digest(*chunk, {"step": "distance", **about})
            passes = len(chunk.probes) * distance_cost(defence, draws)
            distances.append(self._kept(key, make, passes)["distance"])
        median = float(np.median(np.concatenate(distances)))
        return median if np.isfinite(median) else None

    def checks(
        self,
        target: Target,
        norm: Norm,
        eps: float,
        threshold: float,
        white_box: _Images,
        black_box: Sequence[_Images],
    ) -> list[CheckResult]:
        """Return the self-checks of an adaptive attack, on its first few faces."""
        few = target.faces.part(0, CHECKED)
        white, *black = (images[:CHECKED] for images in (white_box, *black_box))

        def make() -> Arrays:
            found = self_checks(
                target.scene(few),
                eps,
                threshold=threshold,
                white_box=torch.from_numpy(to_float(white)),
                black_box=[torch.from_numpy(to_float(images)) for images in black],
                norm=norm,
                generator=self._generator(),
            )
            return {
                "names": np.array([check.name for check in found]),
                "passed": np.array([check.passed for check in found]),
                "details": np.array([check.detail for check in found]),
            }

        about = self._about(target, norm=norm, eps=eps, threshold=threshold)
        key = digest(*few, white, *black, {"step": "checks", **about})
        kept = self._kept(key, make, len(few.probes) * CHECK_PASSES)
        return [
            CheckResult(f"{target.goal}: {name}", bool(passed), str(detail))
            for name, passed, detail in zip(
                kept["names"], kept["passed"], kept["details"], strict=True
            )
        ]

    def quality(self, images: _Images, defence: Defence) -> tuple[float | None, float]:
        """Return mean PSNR and SSIM of purified clean images against themselves."""

        def make() -> Arrays:
            psnr, ssim = metrics.image_quality(
                to_bytes(defence.purify(to_float(images), seed=self._draw(images))), images
            )
            return {"psnr": np.array(np.nan if psnr is None else psnr), "ssim": np.array(ssim)}

        about = {"step": "quality", "defence": defence.key(), "seed": self._seed}
        kept = self._kept(digest(images, about, self._judging, self._comparing), make, 0)
        psnr = float(kept["psnr"])
        return (None if np.isnan(psnr) else psnr), float(kept["ssim"])

    def _attacked(
        self,
        about: dict[str, object],
        run: Callable[[Faces], torch.Tensor],
        faces: Faces,
        cost: int,
    ) -> _Images:
        attacked = []
        for chunk in faces.chunks():
            key = digest(
                *chunk, {"step": "attack", "seed": self._seed, "attacks": self._attacking, **about}
            )

            def make(chunk: Faces = chunk) -> Arrays:
                return {"images": to_bytes(run(chunk).numpy())}

            attacked.append(self._kept(key, make, len(chunk.probes) * cost)["images"])
        return np.concatenate(attacked)

    def _about(self, target: Target, **more: object) -> dict[str, object]:
        """Return what, beside the faces, determines a step that asks the defence."""
        return {
            "pipeline": target.pipeline,
            "goal": target.goal,
            "seed": self._seed,
            "code": self._attacking + self._adapting,
            **more,
        }

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed)

    def _draw(self, images: NDArray[np.generic]) -> int:
        """Return a seed for a defence that draws lots: of its own for each chunk, but stable."""
        return int(digest(images, str(self._seed))[:8], 16)

    def _kept(self, key: str, make: Callable[[], Arrays], passes: int) -> Arrays:
        stored = self._cache.get(key)
        if stored is None:
            stored = make()
            self._cache.put(key, stored)
            self._progress.done(passes)
        elif key not in self._met:
            self._progress.found(passes)
        self._met.add(key)
        return stored


def distance_cost(defence: Defence, draws: int) -> int:
    """Return the passes that :meth:`Steps.distance` makes of each image: seven bisections."""
    return 7 * DISTANCE_STEPS * (draws if defence.random else 1)


def to_float(images: _Images) -> _Floats:
    """Return uint8 [N, H, W, 3] as float32 [N, 3, H, W] in [0, 1].

    >>> to_float(np.full((1, 2, 2, 3), 255, np.uint8)).max()
    np.float32(1.0)
    """
    floats: _Floats = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)
    return floats / np.float32(255)


def to_bytes(images: _Floats) -> _Images:
    """Return float32 [N, 3, H, W] in [0, 1], rounded to uint8 [N, H, W, 3]: its inverse.

    >>> faces = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    >>> bool((to_bytes(to_float(faces)) == faces).all())
    True
    """
    levels = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
