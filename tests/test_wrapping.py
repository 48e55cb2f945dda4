from __future__ import annotations

import copy
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facepurify import Purifier
from facepurify.errors import ImageShapeError, ImageValueError, WrapError
from facepurify.images import Array
from facepurify.wrapping import PurifiedCallable

MODELS = ("mobileface_v2", "mobilefacenet_ms1m")


@pytest.fixture(scope="module")
def invert(invert_model: Path) -> Purifier:
    return Purifier(invert_model, threads=1)


@pytest.fixture(scope="module")
def other(tiny_model: Path) -> Purifier:
    return Purifier(tiny_model, threads=1)


class Fake:
    """A recognition model in insightface's shape that records what reaches its network."""

    input_mean = input_std = 127.5

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def get(self, img: Array, face: Any) -> Any:
        return self.get_feat(img)

    def get_feat(self, imgs: Array | list[Array]) -> Any:
        self.seen.append(imgs)
        return imgs

    def forward(self, batch_data: Array) -> Any:
        self.seen.append(batch_data)
        return batch_data


class Chained(Fake):
    """One whose crop path goes on through its own blob path."""

    def get_feat(self, imgs: list[Array]) -> Any:
        return self.forward(cv2.dnn.blobFromImages(imgs, swapRB=True))


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


# Recognition models


def test_crop_and_list(invert: Purifier) -> None:
    model = Fake()
    crops = [noise(112, 112, 3), noise(200, 150, 3)]
    assert invert.wrap(model) is model
    model.get_feat(crops)
    model.get_feat(crops[0])
    model.get(crops[0], None)
    assert len(model.seen) == 3
    assert [crop.shape for crop in model.seen[0]] == [(112, 112, 3)] * 2
    for seen in (model.seen[0][0], *model.seen[1:]):
        np.testing.assert_array_equal(seen, 255 - crops[0])


def test_a_list_is_one_call_of_the_purifier(
    invert_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    purifier = Purifier(invert_model, threads=1)
    session = purifier._stages[0]._session
    assert session is not None
    batches: list[int] = []
    run = session.run

    def counted(outputs: Any, feeds: Any) -> Any:
        batches.append(len(feeds["image"]))
        return run(outputs, feeds)

    monkeypatch.setattr(session, "run", counted)
    purifier.wrap(Fake()).get_feat([noise(112, 112, 3)] * 7)
    assert batches == [7]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_blob(invert: Purifier, dtype: str) -> None:
    model = invert.wrap(Fake())
    blob = noise(4, 3, 112, 112).astype(dtype)
    out = model.forward(blob)
    assert out.dtype == blob.dtype
    np.testing.assert_allclose(out, 255 - blob, atol=1e-4)


def test_blob_is_rgb(other: Purifier) -> None:
    crop = noise(112, 112, 3)
    crop[..., 0] //= 4
    blob = cv2.dnn.blobFromImages([crop], swapRB=True)
    model = other.wrap(Fake())
    expected = cv2.dnn.blobFromImages([other.purify(crop)], swapRB=True)
    np.testing.assert_allclose(model.forward(blob), expected, atol=0.51)


def test_blob_of_another_kind(invert: Purifier) -> None:
    model = invert.wrap(Fake())
    with pytest.raises(ImageShapeError):
        model.forward(noise(3, 112, 112))
    with pytest.raises(ImageShapeError):
        model.forward([[1.0]])
    with pytest.raises(ImageValueError):
        model.forward(np.full((1, 3, 112, 112), 300, np.float32))


def test_purified_once_where_one_path_leads_into_the_other(invert: Purifier) -> None:
    model = invert.wrap(Chained())
    crop = noise(112, 112, 3)
    out = model.get_feat([crop])
    np.testing.assert_array_equal(out[0].transpose(1, 2, 0)[..., ::-1], 255 - crop)
    np.testing.assert_allclose(model.forward(out), 255 - out, atol=1e-4)


def test_an_error_inside_does_not_switch_purifying_off(invert: Purifier) -> None:
    class Failing(Fake):
        def get_feat(self, imgs: Any) -> Any:
            raise RuntimeError("the recognizer failed")

    model = invert.wrap(Failing())
    with pytest.raises(RuntimeError, match="recognizer"):
        model.get_feat(noise(112, 112, 3))
    blob = np.zeros((1, 3, 112, 112), np.float32)
    assert (model.forward(blob) == 255).all()


def test_idempotent_replaced_and_undone(invert: Purifier, other: Purifier) -> None:
    model = Fake()
    model.forward = own = lambda blob: blob  # type: ignore[method-assign]
    before = dict(vars(model))
    crop = noise(112, 112, 3)
    invert.wrap(invert.wrap(model))
    np.testing.assert_array_equal(model.get_feat(crop), 255 - crop)
    other.wrap(model)
    np.testing.assert_array_equal(model.get_feat(crop), other.purify(crop))
    assert invert.unwrap(model) is model
    assert vars(model) == before
    assert model.forward is own
    assert model.get_feat(crop) is crop
    assert invert.unwrap(model) is model


@pytest.mark.parametrize("path", ["get_feat", "forward"])
def test_a_search_that_asks_the_wrapped_recognizer(path: str) -> None:
    class Mean(Fake):
        def get_feat(self, imgs: Any) -> Any:
            self.seen.append(imgs)
            return np.reshape(imgs, (-1, 112 * 112, 3)).mean(1)

        forward = get_feat

    model, asked = Mean(), []

    def recognize(crops: Array) -> Any:
        asked.append(len(crops))
        assert len(asked) < 4  # before it eats the memory
        return model.get_feat(list(crops))

    purifier = Purifier("ais", budget=(2, 1), recognizer=recognize, threads=1)
    crop = noise(112, 112, 3)
    expected = purifier.purify(crop)
    (clones,) = model.seen
    purifier.wrap(model)
    if path == "get_feat":
        model.get_feat(crop)
        np.testing.assert_array_equal(model.seen[2], expected)
    else:
        model.forward(cv2.dnn.blobFromImages([crop], swapRB=True))
    assert len(model.seen) == 3  # the clones once more, not purified, and the face
    np.testing.assert_array_equal(model.seen[1], clones)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_wrapped_model(invert: Purifier, copied: Any) -> None:
    model = invert.wrap(Fake())
    crop = noise(112, 112, 3)
    other = copied(model)
    np.testing.assert_array_equal(other.get_feat(crop), 255 - crop)
    assert len(other.seen) == 1
    assert not model.seen
    invert.unwrap(other)
    assert other.get_feat(crop) is crop
    np.testing.assert_array_equal(model.get_feat(crop), 255 - crop)


def test_a_shallow_copy_is_unwrapped_alone(invert: Purifier) -> None:
    model = invert.wrap(Fake())
    crop = noise(112, 112, 3)
    other = copy.copy(model)
    invert.unwrap(other)
    assert other.get_feat(crop) is crop
    np.testing.assert_array_equal(model.get_feat(crop), 255 - crop)
    other = invert.wrap(copy.copy(model))
    other.seen = []
    np.testing.assert_array_equal(other.get_feat(crop), 255 - crop)
    assert len(other.seen) == 1


@pytest.mark.parametrize("name", ["get_feat", "forward"])
def test_what_came_after_is_not_lost(invert: Purifier, other: Purifier, name: str) -> None:
    model = invert.wrap(Fake())
    before = dict(vars(model))
    theirs = lambda _: 3  # noqa: E731
    setattr(model, name, theirs)
    for undo in (invert.unwrap, other.wrap):
        with pytest.raises(WrapError, match=f"expected {name} of the Fake as wrap left it"):
            undo(model)
    assert vars(model) == {**before, name: theirs}
    setattr(model, name, before[name])
    assert not (vars(invert.unwrap(model)).keys() - {"seen"})


# Callables


def test_callable(invert: Purifier) -> None:
    def embed(crops: Array, scale: int, *, offset: int = 0) -> Array:
        """Embed."""
        return crops.astype(int) * scale + offset

    wrapped = invert.wrap(embed)
    crop = noise(64, 64, 3)
    expected = embed(invert.purify(crop), 2, offset=1)
    np.testing.assert_array_equal(wrapped(crop, 2, offset=1), expected)
    assert isinstance(wrapped, PurifiedCallable)
    assert wrapped.__wrapped__ is embed
    assert (wrapped.__name__, wrapped.__doc__) == ("embed", "Embed.")
    assert invert.unwrap(wrapped) is embed
    assert invert.unwrap(embed) is embed


def test_callable_gets_a_list_as_a_list(invert: Purifier) -> None:
    crops = [noise(112, 112, 3), noise(50, 50)]
    got = invert.wrap(lambda images: images)(crops)
    assert [crop.shape for crop in got] == [(112, 112, 3), (50, 50)]


def test_callable_twice(invert: Purifier, other: Purifier) -> None:
    def embed(crops: Array) -> Array:
        return crops

    once = invert.wrap(embed)
    assert invert.wrap(once) is once
    replaced = other.wrap(once)
    assert replaced.__wrapped__ is embed
    crop = noise(112, 112, 3)
    np.testing.assert_array_equal(replaced(crop), other.purify(crop))


class DetectorOnly:
    """An app without a recognition model."""

    def __init__(self) -> None:
        self.models = {"detection": object()}

    def get(self, img: Array) -> list[Any]:
        return []


class Odd(DetectorOnly):
    """An app with a recognition model that is none."""

    def __init__(self) -> None:
        self.models = {"recognition": object()}


class Fixed:
    """A recognition model without a place for attributes."""

    __slots__ = ()
    get, get_feat, forward = Fake.get, Fake.get_feat, Fake.forward


@pytest.mark.parametrize("target", [None, 3, "app", object(), DetectorOnly(), Odd(), Fixed()])
def test_nothing_to_wrap(invert: Purifier, target: object) -> None:
    with pytest.raises(WrapError, match="expected an insightface FaceAnalysis"):
        invert.wrap(target)


# insightface itself


@pytest.fixture(scope="module", params=MODELS)
def app(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: Any) -> Iterator[Any]:
    """A FaceAnalysis of the real package, with a pack of the measuring models."""
    analysis = pytest.importorskip("insightface.app.face_analysis")
    pack = tmp_path_factory.mktemp("pack")
    for name in ("det_500m", request.param):
        shutil.copy(shared / "models" / f"{name}.onnx", pack)
    made = analysis.FaceAnalysis(name=str(pack), providers=["CPUExecutionProvider"])
    made.prepare(ctx_id=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its alignment calls a deprecated function
        yield made


@pytest.fixture
def wrapped(app: Any, other: Purifier) -> Iterator[Any]:
    yield other.wrap(app)
    other.unwrap(app)


@pytest.fixture(scope="module")
def small_photos(shared: Path) -> list[Array]:
    """Six of the measuring photos, uint8 BGR 250x250x3."""
    with zipfile.ZipFile(shared / "data" / "photos_250.zip") as file:
        names = sorted(n for n in file.namelist() if n.endswith(".jpg"))[:6]
        return [
            cv2.imdecode(np.frombuffer(file.read(name), np.uint8), cv2.IMREAD_COLOR)
            for name in names
        ]


def by_hand(app: Any, purifier: Purifier, photo: Array, face: Any) -> Array:
    """The embedding that a wrapped app must give for a face."""
    from insightface.utils.face_align import norm_crop

    model = app.models["recognition"]
    crop = purifier.purify(norm_crop(photo, face.kps, 112))
    return type(model).get_feat(model, crop).ravel()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_app_embeds_purified_faces(
    app: Any, other: Purifier, photo: Array, small_photos: list[Array]
) -> None:
    for image in (photo, *small_photos):
        untouched = app.get(image)
        expected = [by_hand(app, other, image, face) for face in untouched]
        assert other.wrap(app) is app
        faces = app.get(image)
        other.unwrap(app)
        assert len(faces) == len(untouched) >= 1
        for face, before, embedding in zip(faces, untouched, expected, strict=True):
            np.testing.assert_array_equal(face.bbox, before.bbox)
            np.testing.assert_array_equal(face.kps, before.kps)
            np.testing.assert_allclose(face.embedding, embedding, atol=1e-5)
            assert not np.allclose(face.embedding, before.embedding, atol=1e-3)
    assert len(app.get(photo)) == 6


def test_app_without_faces(wrapped: Any) -> None:
    assert wrapped.get(np.zeros((300, 300, 3), np.uint8)) == []


def test_app_crops_lists_and_blobs_agree(wrapped: Any, faces: list[Array]) -> None:
    model = wrapped.models["recognition"]
    together = model.get_feat(faces)
    one_by_one = np.concatenate([model.get_feat(face) for face in faces])
    np.testing.assert_allclose(together, one_by_one, atol=1e-3)
    blob = cv2.dnn.blobFromImages(faces, swapRB=True)
    # the blob path does not round to 8 bits between purifier and recognizer
    cosine = np.sum(unit(model.forward(blob)) * unit(together), 1)
    assert cosine.min() > 0.999


def unit(embeddings: Array) -> Array:
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_app_is_as_before_after_unwrap(
    app: Any, other: Purifier, invert: Purifier, photo: Array
) -> None:
    model = app.models["recognition"]
    before = dict(vars(model))
    embeddings = [face.embedding for face in app.get(photo)]
    other.wrap(app)
    invert.wrap(model)
    other.unwrap(app)
    assert vars(model) == before
    again = [face.embedding for face in app.get(photo)]
    np.testing.assert_allclose(again, embeddings, atol=1e-5)
