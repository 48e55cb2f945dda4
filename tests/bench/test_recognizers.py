"""Recognizers: torch and ONNX Runtime agree, and what is no recognizer is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from facepurify.bench.recognizers import Recognizer
from facepurify.bench.shipped import find_recognizer
from facepurify.errors import ModelContractError, ModelNotFoundError
from tests.bench.small_nets import DIM, lfw_pairs, recognizer_model


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((3, 3, 112, 112), dtype=np.float32)


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "small.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_embeds_alike_in_torch_and_onnx_runtime(tmp_path: Path, images: np.ndarray) -> None:
    path = saved(tmp_path, recognizer_model())
    recognizer = Recognizer.from_onnx(path)
    assert recognizer.name == "small"
    assert recognizer.dim == DIM
    assert recognizer.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    ours = recognizer(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(ours, recognizer.embed_numpy(images), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_embeds_any_number(tmp_path: Path, images: np.ndarray) -> None:
    recognizer = Recognizer.from_onnx(saved(tmp_path, recognizer_model()))
    assert recognizer.embed_numpy(images[:0]).shape == (0, DIM)
    many = np.repeat(images, 43, axis=0)
    np.testing.assert_allclose(
        recognizer.embed_numpy(many)[::43], recognizer.embed_numpy(images), atol=1e-5
    )


def test_gradient_is_that_of_the_embedding(tmp_path: Path, images: np.ndarray) -> None:
    recognizer = Recognizer.from_onnx(saved(tmp_path, recognizer_model()))
    x = torch.from_numpy(images).requires_grad_()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    anchor = torch.ones(DIM) / DIM**0.5
    (gradient,) = torch.autograd.grad((recognizer(x) @ anchor).sum(), x)
    with torch.no_grad():
        ahead, behind = recognizer(x + direction) @ anchor, recognizer(x - direction) @ anchor
    expected = (gradient * direction).sum((1, 2, 3))
    np.testing.assert_allclose((ahead - behind) / 2, expected, rtol=0.05, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in recognizer.parameters())


def test_a_graph_that_normalises_itself_gets_plain_pixels(
    tmp_path: Path, images: np.ndarray
) -> None:
    plain = Recognizer.from_onnx(saved(tmp_path, recognizer_model()))
    itself = Recognizer.from_onnx(saved(tmp_path, recognizer_model(first_nodes=("Sub_0", "Mul_0"))))
    np.testing.assert_allclose(itself.embed_numpy(images), plain.embed_numpy(images), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": 2}, "one output"),
        ({"size": "S"}, r"\[N, 3, 112, 112\]"),
        ({"output_rank": 4}, r"embeddings \[N, d\]"),
    ],
)
def test_refuses_other_models(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    path = saved(tmp_path, recognizer_model(**changes))
    with pytest.raises(ModelContractError, match=message):
        Recognizer.from_onnx(path)


def test_a_stated_batch_is_no_limit(tmp_path: Path, images: np.ndarray) -> None:
    free = Recognizer.from_onnx(saved(tmp_path, recognizer_model()))
    stated = Recognizer.from_onnx(saved(tmp_path, recognizer_model(batch=1)))
    np.testing.assert_array_equal(stated.embed_numpy(images), free.embed_numpy(images))


def test_refuses_what_can_only_do_one_image(tmp_path: Path) -> None:
    model = recognizer_model(batch=1)
    last = model.graph.node[-1]
    last.input[0] = "row"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 16 * 49]), "shape"))
    model.graph.node.insert(
        len(model.graph.node) - 1, helper.make_node("Reshape", ["flat", "shape"], ["row"])
    )
    with pytest.raises(ModelContractError, match="any number of images"):
        Recognizer.from_onnx(saved(tmp_path, model))


def test_refuses_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"none\.onnx"):
        Recognizer.from_onnx(tmp_path / "none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not an ONNX file")
    with pytest.raises(ModelContractError, match=r"broken\.onnx"):
        Recognizer.from_onnx(broken)


def test_refuses_external_data(tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    onnx.save(recognizer_model(), path, save_as_external_data=True, size_threshold=0)
    with pytest.raises(ModelContractError, match="external data"):
        Recognizer.from_onnx(path)


@pytest.mark.parametrize("name", ["mobileface_v2", "mobilefacenet_casia", "mobilefacenet_ms1m"])
def test_embeds_as_insightface_does(shared: Path, name: str) -> None:
    faces, _ = lfw_pairs(shared, 2, genuine=True)
    _embeds_as_insightface_does(shared / "models" / f"{name}.onnx", faces)


@pytest.mark.parametrize("name", ["recognizer", "recognizer-mter"])
def test_what_ships_embeds_as_insightface_does(name: str) -> None:
    faces = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 112, 112))) / 255
    _embeds_as_insightface_does(find_recognizer(name), faces.float())


def _embeds_as_insightface_does(path: Path, faces: torch.Tensor) -> None:
    arcface = pytest.importorskip("insightface.model_zoo.arcface_onnx")
    theirs = arcface.ArcFaceONNX(str(path))
    theirs.prepare(-1)
    crops = [
        np.rint(face.transpose(1, 2, 0) * 255).astype(np.uint8)[..., ::-1] for face in faces.numpy()
    ]
    expected = theirs.get_feat(crops)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    recognizer = Recognizer.from_onnx(path, threads=1)
    np.testing.assert_allclose(recognizer.embed(faces).numpy(), expected, atol=1e-3)
    np.testing.assert_allclose(recognizer.embed_numpy(faces.numpy()), expected, atol=1e-4)
