"""The purifier: load a model, purify and inspect faces, stand in front of a recognizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .crops import cut_all, is_single, matrices_of, put_back
from .errors import (
    LandmarkShapeError,
    ModelChecksumError,
    OptionError,
    SeedError,
)
from .images import (
    Array,
    Colour,
    as_images,
    check_canonical,
    check_colour,
    from_canonical,
    to_canonical,
)
from .inspection import Inspection, compare
from .memory import Memory
from .search import Recognize, search_options
from .stage import ModelInfo, Passed, Stage
from .weights import ModelFile, ModelName, read_model, split_chain
from .wrapping import unwrap, wrap

__all__ = ["ModelInfo", "Purified", "Purifier", "check_seed"]

Floats = NDArray[np.float32]
Target = TypeVar("Target")


@dataclass(frozen=True)
class Purified:
    """What the model gave for a canonical batch.

    Attributes:
        images: float32 [N, 3, 112, 112], RGB, in [0, 1].
        probability: float32 [N, K], activation probability of each eigenface; None if the
            model has none. Of a chain, that of its last antibody.
        score: float32 [N], suspicion in [0, 1]; None if the model has none. Of a chain, the
            largest of its models' scores, each over its own threshold: 1 is suspicious. A model
            scores what the one before it left; one without a calibrated threshold does not count.
    """

    images: Floats
    probability: Floats | None
    score: Floats | None


class Purifier:
    """Removes adversarial perturbations from face images.

    One purifier serves many threads; it pickles, and works on in a forked process.

    Args:
        model: None for the recommended model, a name from the manifest, or a path to an
            ``.onnx`` file of the contract. Several, in a list or joined by ``"+"``
            (``"uddn+pin"``), are a chain: each gets what the one before it gave, in floats.
        providers: Names of ONNX Runtime's execution providers in order of preference; None for
            the CPU. One that is missing is an error, never a quiet run on the CPU.
        threads: Threads within an operator; None for ONNX Runtime's default.
        mask: How an antibody becomes a mask: ``"expected"`` weights each eigenface by its
            probability p, ``"fixed"`` keeps those with p above its mean, ``"sampled"`` those
            with p above a uniform draw (Ren et al., IEEE TIFS 17, 2022, publish these two),
            ``"threshold"`` those with p above 1/2. None for the model's default,
            ``info.masks[0]``. In a chain it goes to every model that has an antibody.
        budget: Clones and generations of a search for the antibody, such as ``(32, 4)``, in
            place of a mask; for models that can be searched (``"ais"``). In a chain it goes to
            these. None for no search, unless one of the next three asks for one: then (16, 2).
        affinity: What the search goes by: ``"critic"`` (None), ``"agreement"`` or
            ``"consistency"``, see :mod:`facepurify.search`.
        recognizer: The search goes by your own recognizer instead: a callable from uint8 BGR
            crops [M, 112, 112, 3] to embeddings [M, d]. It sees every clone.
        remember: The search also tries the antibody of the likest face met before. Off, since
            then results depend on who came before, and whoever sends images writes to it: see
            :class:`facepurify.memory.Memory`. It is not pickled.

    Raises:
        ModelError: The model is missing, altered, or not of the contract.
        ProviderError: A provider is missing or did not start.
        MissingExtraError: ONNX Runtime is not installed.
        OptionError: An argument of another value, a mask or a search that this model does not
            have, or both.
    """

    def __init__(
        self,
        model: ModelName | Sequence[ModelName] | None = None,
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        mask: str | None = None,
        budget: tuple[int, int] | None = None,
        affinity: str | None = None,
        recognizer: Recognize | None = None,
        remember: bool = False,
    ) -> None:
        search = search_options(budget, affinity, recognizer, remember)
        if search is not None and mask is not None:
            raise OptionError(
                f"expected a mask or a search, got mask={mask!r} and a search of {search.budget} "
                "clones and generations; leave one of them out"
            )
        files = [read_model(each) for each in split_chain(model)]
        names = "+".join(file.name for file in files)
        masks = _masks_of(files)
        if mask is not None and mask not in masks:
            have = ", ".join(masks) or "none, since it has no antibody"
            raise OptionError(f"expected a mask of {names} ({have}), got {mask!r}")
        searched = [file.contract.searchable for file in files]
        if not any(searched):
            searched = [True] * len(files)  # the first says what it lacks
        self._stages = tuple(
            Stage(file, providers, threads, mask, search if searches else None)
            for file, searches in zip(files, searched, strict=True)
        )
        self._searches = search is not None
        self._usual: list[Floats | None] | None = None
        self._chunk = min(stage.largest for stage in self._stages)  # images a run
        self._info = _joined_info([stage.info for stage in self._stages], masks)
        self._mask = next((stage.mask for stage in self._stages if stage.mask), None)
        self._arguments = {
            "model": [file.name if file.entry else file.path for file in files],
            "providers": self._stages[0].providers,
            "threads": threads,
            "mask": mask,
            "budget": budget,
            "affinity": affinity,
            "recognizer": recognizer,
            "remember": remember,
        }

    @property
    def memories(self) -> tuple[Memory, ...]:
        """What the search of each model remembers, to save, load or forget; empty if none does."""
        return tuple(stage.memory for stage in self._stages if stage.memory is not None)

    @property
    def info(self) -> ModelInfo:
        """What this purifier runs."""
        return self._info

    @overload
    def purify(
        self,
        image: Array,
        *,
        landmarks: ArrayLike | Sequence[ArrayLike] | None = None,
        color: Colour = "bgr",
        keep_size: bool = True,
        seed: int | None = None,
    ) -> Array: ...

    @overload
    def purify(
        self,
        image: list[Array],
        *,
        landmarks: Sequence[ArrayLike] | None = None,
        color: Colour = "bgr",
        keep_size: bool = True,
        seed: int | None = None,
    ) -> list[Array]: ...

    def purify(
        self,
        image: Array | list[Array],
        *,
        landmarks: ArrayLike | Sequence[ArrayLike] | None = None,
        color: Colour = "bgr",
        keep_size: bool = True,
        seed: int | None = None,
    ) -> Array | list[Array]:
        """Purify aligned crops, or the faces of whole photos.

        A crop of another size than 112x112 is resized to it, purified and resized back; the
        detail above that resolution is where attacks hide and is not put back.

        Args:
            image: HxW (grey) or HxWx3, an array NxHxWx3, or a list of such single images of any
                sizes and kinds; uint8, or float32 / float64 in [0, 1].
            landmarks: None: each image is an aligned crop. Else where the faces are in each
                photo, in pixels: [5, 2] for one face, [M, 5, 2] for M; for an array or a list
                of photos, one such array for each. Each face is aligned, purified and blended
                back, in order; the rest of the photo stays bit for bit.
            color: Channel order of coloured images, ``"bgr"`` (OpenCV) or ``"rgb"``.
            keep_size: False to get the 112x112 crops.
            seed: Makes the draw of a ``"sampled"`` mask repeatable; one draw serves the whole
                call, so a result does not depend on the other images. Other masks draw nothing.
                A search without a seed is as with 0.

        Returns:
            New images of the type, shape, dtype and channel order that came in.

        Raises:
            ImageError: Not images, see :func:`facepurify.images.as_images`.
            LandmarkError: Landmarks that are no face in the photo.
            OptionError: Another ``color`` or ``seed``; ``keep_size=False`` with landmarks.
            ModelOutputError: The model failed, or gave no purified face.
        """
        if not keep_size and landmarks is not None:
            raise OptionError("expected keep_size=True with landmarks; align the faces yourself")
        check_colour(color)
        images = as_images(image)
        matrices = matrices_of(image, images, landmarks)
        faces = self._each(cut_all(images, matrices), color, self._draw(seed))
        purified = [face.crop for face in faces]
        if keep_size:
            purified = put_back(images, matrices, purified)
        if isinstance(image, list):
            return purified
        return np.stack(purified) if image.ndim == 4 else purified[0]

    @overload
    def inspect(
        self,
        image: Array,
        *,
        landmarks: ArrayLike | None = None,
        color: Colour = "bgr",
        seed: int | None = None,
    ) -> Inspection: ...

    @overload
    def inspect(
        self,
        image: list[Array],
        *,
        landmarks: Sequence[ArrayLike] | None = None,
        color: Colour = "bgr",
        seed: int | None = None,
    ) -> list[Inspection]: ...

    def inspect(
        self,
        image: Array | list[Array],
        *,
        landmarks: ArrayLike | Sequence[ArrayLike] | None = None,
        color: Colour = "bgr",
        seed: int | None = None,
    ) -> Inspection | list[Inspection]:
        """Purify faces and report what was removed and how suspicious they were.

        Args:
            image: As for :meth:`purify`.
            landmarks: As for :meth:`purify`, but of one face a photo.
            color: As for :meth:`purify`.
            seed: As for :meth:`purify`.

        Returns:
            One inspection for one image, else a list of them.

        Raises:
            FacePurifyError: As :meth:`purify`; LandmarkShapeError for a photo with more or
                fewer faces than one.
        """
        check_colour(color)
        images = as_images(image)
        matrices = matrices_of(image, images, landmarks)
        for index, found in enumerate(matrices or []):
            if len(found) != 1:
                raise LandmarkShapeError(
                    f"expected one face to inspect in photo {index}, got {len(found)}; "
                    "inspect them one by one"
                )
        faces = list(self._each(cut_all(images, matrices), color, self._draw(seed)))
        purified = put_back(images, matrices, [face.crop for face in faces])
        inspections = [
            compare(
                before,
                after,
                score=face.score,
                threshold=self._info.score_threshold,
                mask=face.mask,
                probability=face.probability,
            )
            for before, after, face in zip(images, purified, faces, strict=True)
        ]
        return inspections[0] if is_single(image) else inspections

    def purify_canonical(self, batch: Floats, seed: int | None = None) -> Purified:
        """Purify a canonical batch: the one way through that everything else uses.

        At most 64 images run at a time (16 on a CPU, whose caches hold no more; fewer where a file
        of your own needs much memory), so that memory is bounded.

        Args:
            batch: float32 [N, 3, 112, 112], RGB, in [0, 1].
            seed: As for :meth:`purify`.

        Returns:
            The purified batch, with probability and score where the model gives them.

        Raises:
            ImageError: Another type, dtype, shape or range.
            SeedError: Not a whole number of 0 or more.
            ModelOutputError: The model failed, or gave no purified face.
        """
        check_canonical(batch)
        uniforms = self._draw(seed)
        places = range(self._chunk, len(batch), self._chunk)
        parts = [self._run(part, uniforms) for part in np.split(batch, places)]
        return Purified(
            np.concatenate([part.images for part in parts]),
            _joined([part.probability for part in parts]),
            _joined([part.score for part in parts]),
        )

    def wrap(self, target: Target) -> Target:
        """Stand in front of a recognizer, so that it embeds purified faces only.

        Args:
            target: An insightface ``FaceAnalysis``, one of its recognition models, or any
                callable on crops (as :meth:`purify` takes them, BGR).

        Returns:
            The same object, changed in place; for a callable, a new one with ``__wrapped__``.
            Wrapping again changes nothing; wrapping with another purifier replaces the first.

        Raises:
            WrapError: Nothing that embeds faces, an app without a recognition model, or one that
                something else was put in front of since.
        """
        return wrap(self, target)

    @staticmethod
    def unwrap(target: Target) -> Target:
        """Undo :meth:`wrap`; what was not wrapped comes back as it is.

        Args:
            target: What :meth:`wrap` returned.

        Returns:
            The object as it was before, for a callable the original.

        Raises:
            WrapError: Something else was put in front of it since.
        """
        return unwrap(target)

    def close(self) -> None:
        """Let go of the sessions; the purifier cannot be used after that.

        A call that is under way in another thread ends as ever, or with the error of a later one.
        """
        for stage in self._stages:
            stage.close()

    def __enter__(self) -> Purifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Purifier({self._info.name!r}, mask={self._mask!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._arguments, self._info.sha256)

    def _each(
        self, crops: list[Array], color: Colour, uniforms: list[Floats | None]
    ) -> Iterator[_Face]:
        """Purify 112x112 crops, holding one chunk of canonical images at a time."""
        for start in range(0, len(crops), self._chunk):
            part = crops[start : start + self._chunk]
            result = self._run(to_canonical(part, color), uniforms)
            for index, crop in enumerate(from_canonical(result.images, part, color)):
                yield _Face(
                    crop,
                    None if result.score is None else float(result.score[index]),
                    None if result.mask is None else result.mask[index],
                    None if result.probability is None else result.probability[index],
                )

    def _run(self, batch: Floats, uniforms: list[Floats | None]) -> Passed:
        """Run every model once on at most a chunk, one after the other."""
        passed: list[Passed] = []
        for stage, uniform in zip(self._stages, uniforms, strict=True):
            passed.append(stage.run(batch, uniform))
            batch = passed[-1].images
        if len(passed) == 1:
            return passed[0]
        ratios = [
            result.score / np.float32(stage.info.score_threshold)
            for result, stage in zip(passed, self._stages, strict=True)
            if result.score is not None and stage.info.score_threshold is not None
        ]
        last = next((r for r in reversed(passed) if r.probability is not None), passed[-1])
        return Passed(
            batch, last.probability, last.mask, np.maximum.reduce(ratios) if ratios else None
        )

    def _draw(self, seed: int | None) -> list[Floats | None]:
        """Draw the u of each sampled mask, one for all images of a call."""
        check_seed(seed)
        sampled = any(stage.mask == "sampled" for stage in self._stages)
        if seed is not None or (sampled and not self._searches):
            rng = np.random.default_rng(seed)
            return [stage.draw(rng) for stage in self._stages]
        if self._usual is None:  # the same at every call, and drawing costs as much as a clone
            rng = np.random.default_rng(0)
            self._usual = [stage.draw(rng) for stage in self._stages]
        return self._usual


def check_seed(seed: int | None) -> None:
    """Check the seed of a draw.

    Raises:
        SeedError: It is no whole number from 0, nor None.
    """
    if seed is not None and (
        isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0
    ):
        raise SeedError(f"expected a seed that is a whole number >= 0 or None, got {seed!r}")


def _masks_of(files: Sequence[ModelFile]) -> tuple[str, ...]:
    """The masks that every model with an antibody has, in the order of the first such."""
    each = [file.entry.masks if file.entry else file.contract.masks for file in files]
    present = [masks for masks in each if masks]
    return tuple(mask for mask in (present or [()])[0] if all(mask in m for m in present))


def _joined_info(infos: Sequence[ModelInfo], masks: tuple[str, ...]) -> ModelInfo:
    """Describe a chain; one model is itself."""
    if len(infos) == 1:
        return infos[0]
    outputs = {output for info in infos for output in info.outputs if output != "score"}
    calibrated = any(info.score_threshold is not None for info in infos)
    return ModelInfo(
        name="+".join(info.name for info in infos),
        path=infos[0].path,
        sha256=hashlib.sha256("+".join(info.sha256 for info in infos).encode()).hexdigest(),
        masks=masks,
        score_threshold=1.0 if calibrated else None,
        outputs=tuple(sorted(outputs, reverse=True)) + (("score",) if calibrated else ()),
        K=next((info.K for info in reversed(infos) if info.K is not None), None),
        stages=tuple(infos),
    )


@dataclass(frozen=True)
class _Face:
    """One purified crop, its suspicion, the antibody used on it and what that was made of."""

    crop: Array
    score: float | None
    mask: Floats | None
    probability: Floats | None


def _reopen(arguments: dict[str, Any], sha256: str) -> Purifier:
    """Open a purifier again where its pickle is loaded."""
    purifier = Purifier(**arguments)
    if purifier.info.sha256 != sha256:
        raise ModelChecksumError(
            f"expected {purifier.info.path} to have the sha256 {sha256} of the pickled purifier, "
            f"got {purifier.info.sha256}; the file changed in between"
        )
    return purifier


def _joined(parts: list[Floats | None]) -> Floats | None:
    """Join an optional output of all chunks."""
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None
