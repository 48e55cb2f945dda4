"""Small stand-ins for a recognizer, and real faces to attack where there are some."""

from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

__all__ = ["RandomNet", "lfw_pairs", "random_anchor", "random_images", "recognizer_model"]

DIM = 16


class RandomNet(nn.Module):
    """A random embedding of images of any size in double precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2),
            nn.Tanh(),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(128, DIM),
        )
        self.double().eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.layers(x.double()))


def random_images(count: int, size: int = 32) -> Tensor:
    """Smooth random images on the 8-bit grid, in double precision."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, size // 4, size // 4, generator=generator, dtype=torch.double)
    fine = nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    return (fine * 255).round() / 255


def random_anchor(count: int, dim: int = DIM) -> Tensor:
    """Unit vectors, in double precision."""
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(count, dim, generator=generator, dtype=torch.double)
    return nn.functional.normalize(vectors)


def recognizer_model(
    *,
    size: int | str = 112,
    batch: int | str = "N",
    outputs: int = 1,
    output_rank: int = 2,
    first_nodes: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """A random recognizer of the ArcFace kind as ONNX.

    Args:
        size: of the input.
        batch: first dimension of the input.
        outputs: how many.
        output_rank: 2 for embeddings.
        first_nodes: names of nodes that begin the graph, "Sub..." or "Mul...".
    """
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(8, 3, 5, 5)) / 5,
        "w2": rng.normal(size=(16, 8, 5, 5)) / 10,
        "w3": rng.normal(size=(16 * 49, DIM)) / 16,
        "half": np.array(127.5),
        "scale": np.array(1 / 127.5),
    }
    nodes, last = [], "input"
    for name in first_nodes:
        operator, constant = ("Sub", "half") if name.startswith("Sub") else ("Mul", "scale")
        nodes.append(helper.make_node(operator, [last, constant], [name], name=name))
        last = name
    nodes += [
        helper.make_node("Conv", [last, "w1"], ["c1"], strides=[4, 4], pads=[2, 2, 2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], strides=[4, 4], pads=[2, 2, 2, 2]),
    ]
    names = [f"embedding{i}" for i in range(outputs)]
    if output_rank == 2:
        nodes.append(helper.make_node("Flatten", ["c2"], ["flat"]))
        nodes += [helper.make_node("MatMul", ["flat", "w3"], [name]) for name in names]
        shape: list[int | str] = [batch, DIM]
    else:
        nodes += [helper.make_node("Relu", ["c2"], [name]) for name in names]
        shape = [batch, 16, 7, 7]
    graph = helper.make_graph(
        nodes,
        "recognizer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def lfw_pairs(shared: Path, count: int, *, genuine: bool) -> tuple[Tensor, Tensor]:
    """The first pairs of LFW's list: two batches of RGB crops, float32 in [0, 1]."""
    lines = (shared / "data" / "lfw_pairs.txt").read_text().splitlines()[1:]
    chosen = [fields for line in lines if len(fields := line.split()) == (3 if genuine else 4)]
    with zipfile.ZipFile(shared / "data" / "lfw_pairs_112.zip") as archive:
        members = {Path(name).stem: name for name in archive.namelist()}

        def read(name: str, number: str) -> np.ndarray:
            data = np.frombuffer(archive.read(members[f"{name}_{int(number):04d}"]), np.uint8)
            return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].transpose(2, 0, 1) / 255

        first = [read(fields[0], fields[1]) for fields in chosen[:count]]
        second = [
            read(fields[-2] if not genuine else fields[0], fields[-1]) for fields in chosen[:count]
        ]
    return torch.tensor(np.stack(first)).float(), torch.tensor(np.stack(second)).float()
