"""Time of each purifier as ratios in one run: to a recognizer, and to the published pipeline.

    python benchmarks/latency.py --recognizer mobilefacenet.onnx

One thread, medians, everything taking turns. The published pipeline (PIN, IEEE TIFS 2022) is
rebuilt at its published sizes with random weights: a denoising autoencoder twice, eight residual
blocks, 2,500 eigenfaces of 12,544 pixels, and a masked copy of them for each image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np
import onnxruntime
import torch
from torch.utils.flop_counter import FlopCounterMode

from facepurify import Purifier
from facepurify.bench.latency import median_times
from facepurify.files import atomic_path
from facepurify.train.selector import PublishedSelector

PIXELS, EIGENFACES = 112 * 112, 2500


class PublishedPin(torch.nn.Module):
    """The pipeline as published; random weights take the same time as trained ones."""

    def __init__(self) -> None:
        super().__init__()
        self.selector = PublishedSelector(EIGENFACES)
        self.register_buffer("mean", torch.zeros(PIXELS))
        self.register_buffer("eigenfaces", torch.rand(PIXELS, EIGENFACES) / PIXELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, 112, 112] to grey [N, 12544]."""
        _, logits = self.selector(x)
        probability = logits.sigmoid()
        masks = (probability > probability.mean(dim=1, keepdim=True)).float()
        faces = []
        for image, mask in zip(x.mean(dim=1).flatten(1), masks, strict=True):
            kept = self.eigenfaces * mask
            faces.append(self.mean + kept @ (kept.T @ (image - self.mean)))
        return torch.stack(faces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recognizer", required=True, metavar="ONNX")
    parser.add_argument("--purifier", action="append", metavar="NAME|ONNX", help="repeat")
    parser.add_argument("--out", metavar="JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    recognizer = onnxruntime.InferenceSession(
        options.recognizer, session_options, providers=["CPUExecutionProvider"]
    )
    blob = recognizer.get_inputs()[0].name
    published = PublishedPin().eval()

    def run_published(images: np.ndarray) -> None:
        with torch.inference_mode():
            published(torch.from_numpy(images[..., ::-1].transpose(0, 3, 1, 2) / np.float32(255)))

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        published.selector(torch.zeros(1, 3, 112, 112))
    print(f"published networks: {counter.get_total_flops() / 2e9:.2f} GMAC")
    steps: dict[str, Callable[[np.ndarray], object]] = {
        "recognizer": lambda x: recognizer.run(
            None, {blob: (x[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5}
        ),
        "published PIN": run_published,
    }
    for name in options.purifier or ["pin"]:
        steps[name] = Purifier(name, threads=1).purify
    record: dict[str, dict[str, float]] = {}
    for batch, repeats in ((1, 50), (32, 7)):
        images = np.random.default_rng(0).integers(0, 256, (batch, 112, 112, 3), dtype=np.uint8)
        times = {
            name: 1000 * seconds / batch
            for name, seconds in median_times(steps, images, repeats).items()
        }
        record[str(batch)] = times
        print(f"batch {batch}, milliseconds an image, one thread")
        for name, value in times.items():
            print(
                f"  {name:16} {value:8.2f}   {value / times['recognizer']:6.2f} x the recognizer"
                f"   {times['published PIN'] / value:6.1f} x faster than the published PIN"
            )
    if options.out:
        with atomic_path(options.out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
