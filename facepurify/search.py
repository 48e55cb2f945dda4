"""The search for an antibody at run time: clones, mutations, affinity, memory (AIS).

One encoding gives a face's coefficients c, the code and the probability p of each eigenface. All
clones and mutations live in these K numbers; only the best is decoded, once. What makes a clone
good cannot be measured without the clean face, so it is guessed: by a critic that was trained on
the true affinity, by agreement among clones, by consistency under small noise, or by the
recognizer behind. Ren et al. (IJCV 2024, arXiv 2406.18144) draw one clone at run time, and stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ModelContractError, ModelOutputError, OptionError
from .images import SIZE, Array
from .memory import Memory

__all__ = [
    "AFFINITIES",
    "Decoder",
    "Recognize",
    "Search",
    "SearchOptions",
    "Sensed",
    "agreement",
    "consistency",
    "critique",
    "evolve",
    "likeness",
    "search_options",
]

Floats = NDArray[np.float32]
Score = Callable[[Floats], Floats]
Keep = Callable[[Floats, Floats], Floats]
Recognize = Callable[[Array], Any]

AFFINITIES = ("critic", "agreement", "consistency")
_BUDGET = (16, 2)
_MOST = 1 << 12  # clones x generations, so that memory is bounded
_TOGETHER = 1 << 10  # clones of all images that are looked at in one piece
_SLOPE, _FLOOR, _LARGEST = 0.1, 1e-3, 5.0  # as the critic was trained
_SHARE = "net.share"
_NOISE, _REPEATS = 2 / 255, 8  # deviation in each coefficient, and draws


@dataclass(frozen=True)
class SearchOptions:
    """How a purifier searches.

    Args:
        budget: Clones and generations, each 1 or more.
        affinity: One of ``AFFINITIES``; unused with a recognizer.
        recognizer: The caller's own, a callable from uint8 BGR crops [M, 112, 112, 3] to
            embeddings [M, d]; None for none.
        remember: Keep what was met.

    Raises:
        OptionError: Another budget or affinity, or something that cannot be called.
    """

    budget: tuple[int, int] = _BUDGET
    affinity: str = "critic"
    recognizer: Recognize | None = None
    remember: bool = False

    def __post_init__(self) -> None:
        whole = isinstance(self.budget, Sequence) and len(self.budget) == 2
        if not whole or any(type(n) is not int or n < 1 for n in self.budget):
            raise OptionError(
                "expected a budget (clones, generations) of whole numbers of 1 or more, "
                f"got {self.budget!r}"
            )
        if self.budget[0] * self.budget[1] > _MOST:
            raise OptionError(
                f"expected at most {_MOST} clones in all, got {self.budget[0] * self.budget[1]}"
            )
        if self.affinity not in AFFINITIES:
            raise OptionError(
                f"expected an affinity of {', '.join(AFFINITIES)}, got {self.affinity!r}"
            )
        if self.recognizer is not None and not callable(self.recognizer):
            raise OptionError(
                "expected a recognizer that can be called on crops, got "
                f"{type(self.recognizer).__name__}"
            )


def search_options(
    budget: tuple[int, int] | None,
    affinity: str | None,
    recognizer: Recognize | None,
    remember: bool,
) -> SearchOptions | None:
    """Say how to search, None for not at all; arguments as for :class:`facepurify.Purifier`.

    Raises:
        OptionError: A value that means nothing, or an affinity beside a recognizer.

    Example:
        >>> search_options(None, "agreement", None, False).budget
        (16, 2)
    """
    if affinity is not None and recognizer is not None:
        raise OptionError(f"expected an affinity or a recognizer, got {affinity!r} and one")
    if budget is None and affinity is None and recognizer is None and not remember:
        return None
    return SearchOptions(
        _BUDGET if budget is None else budget, affinity or "critic", recognizer, bool(remember)
    )


@dataclass(frozen=True)
class Sensed:
    """A batch, and what one encoding of it gives.

    Attributes:
        images: float32 [N, 3, 112, 112], RGB, in [0, 1].
        coefficients: c, float32 [N, K].
        probability: p, float32 [N, K].
        code: float32 [N, C].
    """

    images: Floats
    coefficients: Floats
    probability: Floats
    code: Floats

    def part(self, rows: slice) -> Sensed:
        """Some of its images."""
        return Sensed(
            self.images[rows], self.coefficients[rows], self.probability[rows], self.code[rows]
        )


def evolve(
    probability: Floats,
    score: Score,
    uniforms: Floats,
    remembered: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Clone, mutate and select, generation by generation; the best of all is kept.

    The first clones are drawn from Bernoulli(p), beside the plain threshold mask p > 1/2. Those of
    generation g > 0 are the best so far with each gene flipped with probability
    min(p, 1 - p) / 2^(g - 1): what is certain does not mutate (AIS, section 3.4).

    Args:
        probability: p, [N, K].
        score: Clones [N, M, K] to what each is worth, [N, M]; higher is better.
        uniforms: [G, M, K] in [0, 1): the draws of G generations of M clones, the same for all
            images, so that a result does not depend on the batch.
        remembered: Antibodies [N, K] to begin with, beside the threshold mask.

    Returns:
        The best antibodies, 0 or 1, [N, K], and what they are worth, [N].

    Example:
        >>> p = np.array([[0.9, 0.6, 0.1]], np.float32)
        >>> draws = np.random.default_rng(0).random((3, 8, 3), np.float32)
        >>> evolve(p, lambda clones: -clones[:, :, 1], draws)[0]
        array([[1., 0., 0.]], dtype=float32)
    """
    rows = np.arange(len(probability))
    mutability = np.minimum(probability, 1 - probability)[:, None]
    best = probability > 0.5
    worth = np.zeros(len(probability), np.float32)
    for generation, uniform in enumerate(uniforms):
        if generation == 0:
            start = (
                [best[:, None]] if remembered is None else [best[:, None], remembered[:, None] > 0]
            )
            clones = np.concatenate([*start, probability[:, None] > uniform], axis=1)
        else:
            flips = uniform < mutability / 2 ** (generation - 1)
            clones = np.concatenate([best[:, None], best[:, None] ^ flips], axis=1)
        worths = score(clones.astype(np.float32))
        index = worths.argmax(axis=1)
        best, worth = clones[rows, index], worths[rows, index]
    return best.astype(np.float32), worth


def agreement(sensed: Sensed) -> Score:
    """How near a clone's face is to those of the first clones: their medoid is the best.

    With orthonormal eigenfaces the squared distance of two clones' faces is a sum over the
    eigenfaces in which they differ, and the mean distance of one clone to all others depends on
    how often these keep each eigenface only. So the ideal medoid keeps what most clones keep,
    which is the threshold mask, and a search by agreement can hardly leave it.

    Args:
        sensed: The batch.
    """
    energy = sensed.coefficients**2
    kept: list[Floats] = []

    def score(clones: Floats) -> Floats:
        if not kept:
            kept.append(clones.mean(axis=1))
        lost = np.float32(2) * kept[0] - 1
        worth: Floats = np.einsum("nmk,nk->nm", clones, energy * lost) - (energy * kept[0]).sum(
            axis=1, keepdims=True
        )
        return worth

    return score


def consistency(sensed: Sensed, evidence: Floats, deviations: Floats) -> Score:
    """How near a clone's face is to what comes out where small noise is added to the input.

    The noise is drawn in the coefficients. Of the network it moves what depends on them, each
    eigenface's own evidence; the code is taken to stay.

    Args:
        sensed: The batch.
        evidence: [K], by which an eigenface's logit follows the log of its energy.
        deviations: [K], standard deviation of each coefficient over faces.
    """

    def logged(coefficients: Floats) -> Floats:
        energy = (coefficients / deviations) ** 2
        weighed: Floats = evidence * np.log(energy + np.float32(_FLOOR))
        return weighed

    c = sensed.coefficients
    p = sensed.probability.clip(1e-6, 1 - 1e-6)
    rest = np.log(p / (1 - p)) - logged(c)
    shape = (_REPEATS, 1, c.shape[1])
    noise = np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(_NOISE)
    noisy = c + noise
    # A mask p > 1/2 is a logit above 0.
    response = np.where(rest + logged(noisy) > 0, noisy, 0).mean(axis=0)
    gain = 2 * c * response - c**2

    def score(clones: Floats) -> Floats:
        worth: Floats = np.einsum("nmk,nk->nm", clones, gain)
        return worth

    return score


def critique(sensed: Sensed, critic: Mapping[str, Floats], deviations: Floats) -> Score:
    """What the trained critic makes of each clone (``facepurify.train.critic``).

    Args:
        sensed: The batch.
        critic: ``genes`` [3, K * H], ``code.weight`` [H, C], ``code.bias`` [H] and
            ``head.weight`` [1, H].
        deviations: [K], standard deviation of each coefficient over faces.
    """
    z = sensed.coefficients / deviations
    size = np.minimum(np.abs(z), np.float32(_LARGEST))
    energy = np.log(z**2 + np.float32(_FLOOR))
    constant, slope, logarithm = critic["genes"].reshape(3, z.shape[1], -1)
    matrix = constant + size[:, :, None] * slope + energy[:, :, None] * logarithm
    base = (_by_rows(sensed.code, critic["code.weight"].T) + critic["code.bias"])[:, None]

    def score(clones: Floats) -> Floats:
        hidden = clones @ matrix + base
        worth: Floats = np.maximum(hidden, hidden * np.float32(_SLOPE)) @ critic["head.weight"][0]
        return worth

    return score


def _by_rows(vectors: Floats, matrix: Floats) -> Floats:
    """Multiply each of the vectors [N, K] with a matrix, to [N, L].

    One product for all N would be rounded otherwise for another N, and an image's result would
    depend on what else is in the batch.
    """
    products: Floats = np.matmul(vectors[:, None], matrix)[:, 0]
    return products


def likeness(sensed: Sensed, keep: Keep, recognize: Recognize) -> Score:
    """How near a clone's embedding is to the mean of those of the first clones.

    Args:
        sensed: The batch.
        keep: Images and coefficients [M, K] to faces [M, 3, 112, 112], RGB, in [0, 1].
        recognize: uint8 BGR crops [M, 112, 112, 3] to embeddings [M, d].

    Raises:
        ModelOutputError: By the score, if the recognizer gives no such embeddings.
    """
    middle: list[Floats] = []

    def score(clones: Floats) -> Floats:
        count = clones.shape[:2]
        faces = keep(
            np.repeat(sensed.images, count[1], axis=0),
            (clones * sensed.coefficients[:, None]).reshape(-1, clones.shape[2]),
        )
        crops = np.rint(faces.transpose(0, 2, 3, 1)[..., ::-1] * 255).astype(np.uint8)
        given = recognize(np.ascontiguousarray(crops))
        try:
            embeddings = np.asarray(given, np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelOutputError(
                f"expected embeddings [{len(crops)}, d] from the recognizer, got {error}"
            ) from error
        if (
            embeddings.ndim != 2
            or len(embeddings) != len(crops)
            or not embeddings.size
            or not np.isfinite(embeddings).all()
        ):
            raise ModelOutputError(
                f"expected finite embeddings [{len(crops)}, d] from the recognizer, "
                f"got {embeddings.shape}"
            )
        length = np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        unit = (embeddings / length).reshape(*count, -1)
        if not middle:
            middle.append(unit.mean(axis=1))
        worth: Floats = np.einsum("nmd,nd->nm", unit, middle[0])
        return worth

    return score


class Decoder:
    """From coefficients to faces, as the model's graph does it, by the graph's own numbers.

    Args:
        constants: Of the model's file.

    Attributes:
        count: K, the coefficients that it takes.

    Raises:
        ModelContractError: They are not those of eigenfaces.
    """

    def __init__(self, constants: Mapping[str, Floats]) -> None:
        self._luma = _Planes(constants, "luma", planes=1)
        self._chroma = _Planes(constants, "chroma", planes=2)
        self._to_rgb = _constant(constants, "net.space.to_rgb", (3, 3))
        self.count = self._luma.count + self._chroma.count

    def __call__(self, coefficients: Floats) -> Floats:
        """Coefficients [N, K], masked, to float32 [N, 3, 112, 112], RGB, clipped to [0, 1]."""
        count = self._luma.count
        planes = [
            self._luma.decode(coefficients[:, :count]),
            self._chroma.decode(coefficients[:, count:]),
        ]
        ycc = np.concatenate(planes, axis=1)
        rgb = self._to_rgb @ ycc.reshape(len(ycc), 3, -1)
        return rgb.reshape(ycc.shape).clip(0, 1)


class _Planes:
    """Symmetric and antisymmetric eigenfaces of the luma or of the chroma."""

    def __init__(self, constants: Mapping[str, Floats], name: str, planes: int) -> None:
        prefix = f"net.space.{name}."
        self._dct = _constant(constants, prefix + "dct", (None, 112))
        self._mean = _constant(constants, prefix + "mean", (None,))
        even = len(self._mean)
        self._symmetric = _constant(constants, prefix + "symmetric", (even, None))
        self._antisymmetric = _constant(constants, prefix + "antisymmetric", (None, None))
        self._planes = planes
        odd, side = len(self._antisymmetric), len(self._dct)
        if even % planes or odd % planes or side > SIZE:
            raise ModelContractError(
                f"expected {prefix}* of {planes} planes with up to {SIZE} x {SIZE} frequencies, "
                f"got {even} and {odd} of {side} x {side}"
            )
        kept = (even + odd) // planes
        where = _constant(constants, f"search.{name}.frequencies", (kept,))
        if kept and not 0 <= where.min() <= where.max() < side**2:
            raise ModelContractError(
                f"expected frequencies of {side} x {side} in search.{name}.frequencies"
            )
        self._where = where.astype(np.int64)
        self._even = even // planes
        self.count = self._symmetric.shape[1] + self._antisymmetric.shape[1]

    def decode(self, coefficients: Floats) -> Floats:
        split, side = self._symmetric.shape[1], len(self._dct)
        even = _by_rows(coefficients[:, :split], self._symmetric.T) + self._mean
        odd = _by_rows(coefficients[:, split:], self._antisymmetric.T)
        block = np.zeros((len(coefficients), self._planes, side * side), np.float32)
        block[:, :, self._where[: self._even]] = even.reshape(len(even), self._planes, -1)
        block[:, :, self._where[self._even :]] = odd.reshape(len(odd), self._planes, -1)
        grid = block.reshape(*block.shape[:2], side, side)
        planes: Floats = np.matmul(self._dct.T @ grid, self._dct)
        return planes


class Search:
    """The search of one model.

    Args:
        constants: Of the model's file.
        length: K.
        options: How to search.

    Attributes:
        options: As given.
        memory: What was met, if it is kept.

    Raises:
        ModelContractError: The file lacks what a search needs.
        OptionError: It has no critic, and that is what was asked for.
    """

    def __init__(
        self, constants: Mapping[str, NDArray[Any]], length: int, options: SearchOptions
    ) -> None:
        # Half precision is for the file; the names are those of the graph's casts.
        numbers = {
            name.removesuffix(".half"): array.astype(np.float32, copy=False)
            for name, array in constants.items()
        }
        self.options = options
        self._decode = Decoder(numbers)
        if self._decode.count != length:
            raise ModelContractError(
                f"expected {length} eigenfaces to search, got {self._decode.count}"
            )
        # What was written before there was a share takes all off.
        self._share = _constant({_SHARE: np.ones((), np.float32), **numbers}, _SHARE, ())
        eigenvalues = _constant(numbers, "net.space.eigenvalues", (length,))
        if not (eigenvalues > 0).all():
            raise ModelContractError("expected eigenvalues above 0, got others")
        self._deviations = np.sqrt(eigenvalues).astype(np.float32)
        self._evidence = _constant(numbers, "search.evidence", (length,))
        self._critic: Mapping[str, Floats] | None = None
        if options.affinity == "critic" and options.recognizer is None:
            self._critic = _critic_of(numbers, length)
        self._length = length
        self.memory = Memory(length) if options.remember else None

    def draw(self, rng: np.random.Generator) -> Floats:
        """Draw what one call needs, float32 [G, M, K]."""
        clones, generations = self.options.budget
        return rng.random((generations, clones, self._length), np.float32)

    def keep(self, images: Floats, coefficients: Floats) -> Floats:
        """What the model's graph leaves of images with these coefficients, masked.

        Args:
            images: float32 [N, 3, 112, 112], RGB, in [0, 1].
            coefficients: float32 [N, K].

        Returns:
            float32 [N, 3, 112, 112], RGB, clipped to [0, 1].
        """
        fitting = self._decode(coefficients)
        if self._share == 1:
            return fitting
        kept: Floats = self._share * fitting + (1 - self._share) * images
        return kept.clip(0, 1)

    def find(self, sensed: Sensed, uniforms: Floats) -> Floats:
        """The best antibodies found, float32 [N, K] of 0 and 1.

        Raises:
            ModelOutputError: The code is not the critic's, or the recognizer gave no embeddings.
            DataError: The memory was loaded with cells of another model.
        """
        if self._critic is not None:
            shape = (len(sensed.code), self._critic["code.weight"].shape[1])
            if sensed.code.shape != shape:
                raise ModelOutputError(
                    f"expected `code` of shape {shape}, as the critic takes it, "
                    f"got {sensed.code.shape}"
                )
        remembered = None
        if self.memory is not None:
            plain = (sensed.probability > 0.5).astype(np.float32)
            remembered = self.memory.recall(sensed.code, plain)
        size = max(1, _TOGETHER // uniforms.shape[1])
        best = np.empty_like(sensed.probability)
        for start in range(0, len(best), size):
            rows = slice(start, start + size)
            part = sensed.part(rows)
            known = None if remembered is None else remembered[rows]
            best[rows], _ = evolve(part.probability, self._score(part), uniforms, known)
        if self.memory is not None:
            self.memory.keep(sensed.code, best)
        return best

    def _score(self, sensed: Sensed) -> Score:
        if self.options.recognizer is not None:
            return likeness(sensed, self.keep, self.options.recognizer)
        if self._critic is not None:
            return critique(sensed, self._critic, self._deviations)
        if self.options.affinity == "agreement":
            return agreement(sensed)
        return consistency(sensed, self._evidence, self._deviations)


def _critic_of(numbers: Mapping[str, Floats], length: int) -> dict[str, Floats]:
    """What :func:`critique` takes."""
    prefix = "search.critic."
    if not any(name.startswith(prefix) for name in numbers):
        raise OptionError(
            "expected a model with a critic; train one with `python -m facepurify.train "
            f"critic`, or ask for an affinity of {', '.join(AFFINITIES[1:])}"
        )
    bias = _constant(numbers, prefix + "code.bias", (None,))
    hidden = len(bias)
    return {
        "genes": _constant(numbers, prefix + "genes", (3, length * hidden)),
        "code.weight": _constant(numbers, prefix + "code.weight", (hidden, None)),
        "code.bias": bias,
        "head.weight": _constant(numbers, prefix + "head.weight", (1, hidden)),
    }


def _constant(constants: Mapping[str, Floats], name: str, shape: tuple[int | None, ...]) -> Floats:
    """One of the file's numbers, of that shape and finite; None accepts any length."""
    found = constants.get(name)
    if (
        found is None
        or found.ndim != len(shape)
        or any(
            want is not None and have != want for have, want in zip(found.shape, shape, strict=True)
        )
    ):
        got = "none" if found is None else found.shape
        raise ModelContractError(
            f"expected the model to hold {name} of {shape} to search with, got {got}; export it "
            "with `python -m facepurify.train export`"
        )
    if not np.isfinite(found).all():
        raise ModelContractError(f"expected finite numbers in {name}; the model is broken")
    return found
