"""Purifiers with smaller weights are purifiers of the contract, and nearly the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from facepurify import Purifier
from facepurify.bench.conversion import to_torch
from facepurify.errors import DataError, OptionError
from facepurify.train.__main__ import main
from facepurify.train.export import export_purifier
from facepurify.train.faces import FaceSet, as_batch
from facepurify.train.quantise import quantise, widened
from facepurify.train.uddn import UddnNet
from facepurify.weights import read_model


def batch(faces: FaceSet) -> np.ndarray:
    return as_batch(faces.images[faces.validation[:4]])


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("name", ["pin", "uddn"])
def test_half_precision(name: str, faces: FaceSet, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    assert main(["quantise", "--model", name, "-o", str(path)]) == 0
    before, after = (Purifier(model, threads=1) for model in (name, path))
    one, other = (purifier.purify_canonical(batch(faces)) for purifier in (before, after))
    assert np.abs(one.images - other.images).max() < 1 / 255
    assert np.abs(one.score - other.score).max() < 0.01
    assert after.info.score_threshold == before.info.score_threshold is not None
    # By its name a model has the masks of its manifest, a file all that it can.
    assert after.info.masks[: len(before.info.masks)] == before.info.masks
    stored = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    large = [tensor for tensor in stored.values() if np.prod(tensor.dims) >= 4096]
    assert large
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.FLOAT16}
    assert path.stat().st_size < read_model(name).path.stat().st_size


def test_an_export_is_measured_as_it_is_stored(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = UddnNet().eval()
    torch.nn.init.normal_(net.unet.noise.weight, std=0.02)
    whole, half = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    before, after = export_purifier(net, whole), export_purifier(net, half, half=True)
    x = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        purified = net.purify(x).numpy()
    difference = np.abs(Purifier(half, threads=1).purify_canonical(x.numpy()).images - purified)
    assert after >= float(difference.max()) > 10 * before
    quantise(whole, "float16", tmp_path / "again.onnx")
    assert half.stat().st_size == (tmp_path / "again.onnx").stat().st_size


def test_half_precision_has_gradients(faces: FaceSet, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    quantise("uddn", "float16", path)
    net = to_torch(onnx.load(path))
    x = torch.from_numpy(batch(faces))
    ours = Purifier(path, threads=1).purify_canonical(batch(faces)).images
    assert np.abs(net(x)[0].numpy() - ours).max() < 1e-3


def test_eight_bits(faces: FaceSet, tmp_path: Path) -> None:
    path = tmp_path / "eight.onnx"
    quantise("uddn", "int8", path, faces)
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(path)
    assert Purifier(path).info.score_threshold == Purifier("uddn").info.score_threshold
    assert path.stat().st_size < 0.4 * read_model("uddn").path.stat().st_size
    before, after = (Purifier(model, threads=1) for model in ("uddn", path))
    one, other = (p.purify_canonical(batch(faces)).images for p in (before, after))
    assert np.abs(one - other).mean() < 8 / 255


def test_widened_undoes_half_precision(tmp_path: Path) -> None:
    quantise("uddn", "float16", tmp_path / "half.onnx")
    before = onnx.load(read_model("uddn").path)
    after = widened(onnx.load(tmp_path / "half.onnx"))
    assert [node.op_type for node in after.graph.node] == [n.op_type for n in before.graph.node]
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    for tensor in before.graph.initializer:
        values = numpy_helper.to_array(tensor)
        assert np.allclose(arrays[tensor.name], values, rtol=1e-3, atol=1e-6)


def test_what_cannot_be_done(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        quantise("uddn", "int8", tmp_path / "x.onnx")
    with pytest.raises(OptionError, match="float16, int8"):
        quantise("uddn", "int4", tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []
