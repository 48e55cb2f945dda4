"""Standing in front of a recognizer: an insightface app, its recognition model, or a callable.

insightface is never imported here; its objects are known by what they have.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np

from .errors import ImageShapeError, WrapError
from .images import Array

if TYPE_CHECKING:
    from .purifier import Purifier

__all__ = ["PurifiedCallable", "unwrap", "wrap"]

Target = TypeVar("Target")
Result = TypeVar("Result")

_MARK = "_facepurify"
_OVERRIDDEN = ("get_feat", "forward")


def wrap(purifier: Purifier, target: Target) -> Target:
    """Put a purifier in front of a recognizer.

    Args:
        purifier: The purifier.
        target: An insightface ``FaceAnalysis`` or recognition model (changed in place, on the
            instance only), or a callable whose first argument is a crop or several.

    Returns:
        ``target`` itself, or for a callable a :class:`PurifiedCallable`.

    Raises:
        WrapError: Nothing that embeds faces, an app without a recognition model, or one that
            something else was put in front of since it was wrapped.
    """
    if (model := _recognition_model(target)) is not None:
        old = vars(model).get(_MARK)
        if old is None or old.purifier is not purifier or old.model is not model:
            unwrap(model)
            _Override(purifier, model).install()
        return target
    if isinstance(target, PurifiedCallable):
        if target.purifier is purifier:
            return cast(Target, target)
        return cast(Target, PurifiedCallable(purifier, target.__wrapped__))
    if callable(target):
        return cast(Target, PurifiedCallable(purifier, target))
    raise WrapError(
        "expected an insightface FaceAnalysis with a recognition model, such a model (with "
        f"attributes that can be set), or a callable on crops, got {type(target).__name__}"
    )


def unwrap(target: Target) -> Target:
    """Undo :func:`wrap`; what was not wrapped comes back as it is.

    Args:
        target: What :func:`wrap` returned.

    Returns:
        The object as it was before; for a :class:`PurifiedCallable` the original callable.

    Raises:
        WrapError: Something else was put in front of it since, which would be lost.
    """
    if isinstance(target, PurifiedCallable):
        return cast(Target, target.__wrapped__)
    model = _recognition_model(target)
    if model is not None and (override := vars(model).get(_MARK)) is not None:
        override.remove(model)
    return target


class PurifiedCallable(Generic[Result]):
    """A callable on crops that gets them purified.

    Attributes:
        __wrapped__: The original callable.
        purifier: The purifier in front of it.
    """

    def __init__(self, purifier: Purifier, function: Callable[..., Result]) -> None:
        functools.update_wrapper(self, function, updated=())
        self.__wrapped__ = function
        self.purifier = purifier

    def __call__(self, crops: Array | list[Array], /, *args: Any, **kwargs: Any) -> Result:
        """Purify the first argument (see ``Purifier.purify``, BGR) and call the original."""
        purified: Any = self.purifier.purify(crops)
        return self.__wrapped__(purified, *args, **kwargs)


class _Inside(threading.local):
    """Whether this thread is at work in a recognizer; nobody is in a copy of it."""

    value = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _Inside, ()


class _Override:
    """The instance attributes that make one recognition model purify what it embeds."""

    def __init__(self, purifier: Purifier, model: Any) -> None:
        self.purifier = purifier
        self.model = model
        self._own = {name: vars(model)[name] for name in _OVERRIDDEN if name in vars(model)}
        self._get_feat = model.get_feat
        self._forward = model.forward
        self._inside = _Inside()

    def install(self) -> None:
        vars(self.model).update({_MARK: self, "get_feat": self.get_feat, "forward": self.forward})

    def remove(self, model: Any) -> None:
        """Undo it on the model, or on a shallow copy, which shares it."""
        attributes = vars(model)
        for name in _OVERRIDDEN:
            mine = getattr(self, name)
            if (found := attributes.get(name, mine)) != mine:
                raise WrapError(
                    f"expected {name} of the {type(model).__name__} as wrap left it, got "
                    f"{found!r}; undo that first"
                )
        for name in (_MARK, *_OVERRIDDEN):
            attributes.pop(name, None)
        attributes.update(self._own)

    def get_feat(self, imgs: Array | list[Array]) -> Any:
        """Embed BGR crops, as insightface's ``get_feat``; ``get`` comes through here too."""
        with self._entered() as again:
            if not again:
                imgs = self.purifier.purify(imgs, keep_size=False)
            return self._get_feat(imgs)

    def forward(self, batch_data: Array) -> Any:
        """Embed a blob NCHW, RGB in 0..255, as insightface's ``forward``."""
        with self._entered() as again:
            if not again:
                batch_data = self._purify_blob(batch_data)
            return self._forward(batch_data)

    def _purify_blob(self, blob: Array) -> Array:
        if not isinstance(blob, np.ndarray) or blob.ndim != 4:
            got = blob.shape if isinstance(blob, np.ndarray) else type(blob).__name__
            raise ImageShapeError(f"expected a blob that is an array [N, 3, H, W], got {got}")
        images = np.moveaxis(blob, 1, -1)
        if blob.dtype == np.uint8:
            purified = self.purifier.purify(images, color="rgb")
        else:
            full = np.float32(255)
            purified = self.purifier.purify(images / full, color="rgb") * full
        return np.moveaxis(purified, -1, 1)

    @contextmanager
    def _entered(self) -> Iterator[bool]:
        """Mark this thread and say whether it was marked: what comes again is not purified.

        One method may call the other, and a search may ask this very recognizer about its clones.
        """
        before = self._inside.value
        self._inside.value = True
        try:
            yield before
        finally:
            self._inside.value = before


def _recognition_model(target: object) -> Any:
    """Find the recognition model that ``target`` is or has; None if it is something else."""
    models = getattr(target, "models", None)
    if isinstance(models, Mapping) and callable(getattr(target, "get", None)):
        target = models.get("recognition")
    embeds = all(callable(getattr(target, name, None)) for name in (*_OVERRIDDEN, "get"))
    return target if embeds and isinstance(getattr(target, "__dict__", None), dict) else None
