"""A small recognizer of our own: for measuring and demos, so that both work offline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn
from tqdm import tqdm

from facepurify.bench.recognizers import Recognizer
from facepurify.errors import DataError
from facepurify.train.export import to_onnx, write_checked
from facepurify.train.faces import FaceSet, as_batch
from facepurify.train.loop import Loop, Stateful

__all__ = ["DistillRecipe", "MobileFace", "distill", "export_recognizer"]

PARITY = 1e-3
Floats = npt.NDArray[np.float32]


class MobileFace(nn.Module):
    """Inverted residuals and a global depthwise convolution (after MobileFaceNet, 1804.07573).

    0.6 M parameters. Input as insightface feeds it: [N, 3, 112, 112] RGB,
    (pixel - 127.5) / 127.5; output [N, d], not normalised.
    """

    def __init__(self, dim: int = 128) -> None:
        super().__init__()
        self.dim = dim
        layers: list[nn.Module] = [_conv(3, 24, 3, stride=2)]
        inputs = 24
        # expansion, channels, blocks, stride of the first
        for expansion, outputs, blocks, stride in (
            (3, 48, 1, 2), (2, 48, 3, 1), (4, 96, 1, 2),
            (2, 96, 5, 1), (4, 128, 1, 2), (2, 128, 2, 1),
        ):  # fmt: skip
            for number in range(blocks):
                layers.append(_Inverted(inputs, outputs, expansion, stride if number == 0 else 1))
                inputs = outputs
        self.features = nn.Sequential(*layers, _conv(inputs, 384, 1))
        self.pool = nn.Sequential(
            nn.Conv2d(384, 384, 7, groups=384, bias=False), nn.BatchNorm2d(384)
        )
        self.embedding = nn.Sequential(
            nn.Flatten(), nn.Linear(384, dim, bias=False), nn.BatchNorm1d(dim)
        )

    def forward(self, blob: Tensor) -> Tensor:
        """Embeddings of normalised pixels."""
        embedding: Tensor = self.embedding(self.pool(self.features(blob)))
        return embedding


class _Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.layers = nn.Sequential(
            _conv(inputs, hidden, 1),
            _conv(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.straight = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.straight else out


def _conv(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


@dataclass(frozen=True)
class DistillRecipe:
    """How the recognizer is trained.

    Attributes:
        steps: of the optimiser.
        batch: images a step.
        rate: peak learning rate of AdamW, one cosine down to zero.
    """

    steps: int = 3000
    batch: int = 128
    rate: float = 3e-3


def distill(
    net: MobileFace,
    teacher: Recognizer,
    faces: FaceSet,
    recipe: DistillRecipe,
    folder: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Teaches ``net`` the teacher's embeddings by their cosine, labels or not; in place.

    A face is shown as it is or mirrored, shifted by up to 3 pixels and relit; the target is always
    the teacher's embedding of the face as it is.

    Raises:
        DataError: the teacher's embeddings have another length.
    """
    if net.dim != teacher.dim:
        raise DataError(
            f"expected a teacher with embeddings of {net.dim}, got {teacher.dim}: "
            f"build the network with dim={teacher.dim}"
        )
    targets = torch.from_numpy(_teach(teacher, faces))
    net.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.1
    )
    parts: dict[str, Stateful] = {"net": net, "optimizer": optimizer, "schedule": schedule}
    training = faces.training
    for _, generator in (loop := Loop(folder, parts, steps=recipe.steps, seed=seed, resume=resume)):
        rows = torch.randint(len(training), (recipe.batch,), generator=generator).numpy()
        blob = _augment(torch.from_numpy(faces.images[training[rows]]), generator)
        embedding = nn.functional.normalize(net(blob))
        loss = 1 - (embedding * targets[rows]).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        loop.log(distance=float(loss.detach()))
    net.eval()


def export_recognizer(net: MobileFace, path: str | Path) -> float:
    """Writes an ONNX file that insightface's ArcFaceONNX loads; returns the largest difference.

    Raises:
        ModelContractError: torch and ONNX Runtime differ by more than 1e-3.
    """
    net = net.to(memory_format=torch.contiguous_format)
    blob = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    data = to_onnx(net, (blob,), ["input"], ["embedding"]).SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        ours = net(blob).numpy()
    difference = float(np.abs(ours - session.run(None, {"input": blob.numpy()})[0]).max())
    write_checked(data, path, difference, PARITY)
    return difference


def _teach(teacher: Recognizer, faces: FaceSet) -> Floats:
    training = faces.training
    parts = [
        teacher.embed_numpy(as_batch(images))
        for images in tqdm(
            faces.batches(training, 256),
            desc="teacher",
            unit="batch",
            total=-(-len(training) // 256),
        )
    ]
    return np.concatenate(parts)


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 [N, 112, 112, 3] to normalised [N, 3, 112, 112], channels last."""
    blob = (images.permute(0, 3, 1, 2).float() - 127.5) / 127.5
    count = len(blob)
    flipped = torch.rand(count, generator=generator) < 0.5
    blob = torch.where(flipped.view(-1, 1, 1, 1), blob.flip(3), blob)
    padded = nn.functional.pad(blob, (3, 3, 3, 3), mode="replicate")
    top, left = (int(torch.randint(7, (), generator=generator)) for _ in range(2))
    blob = padded[:, :, top : top + 112, left : left + 112]
    gain = 0.8 + 0.4 * torch.rand((count, 1, 1, 1), generator=generator)
    lift = 0.2 * torch.rand((count, 1, 1, 1), generator=generator) - 0.1
    blob = (blob * gain + lift).clamp(-1, 1)
    return blob.contiguous(memory_format=torch.channels_last)
