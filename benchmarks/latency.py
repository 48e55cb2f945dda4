"""Time of each purifier as ratios in one run: to a recognizer, and to the published pipeline.

    python benchmarks/latency.py --recognizer mobilefacenet.onnx --out latency.json

Medians, two taking turns, at several batch sizes and numbers of threads. The published pipeline, on
one thread and at most 32 images, (PIN, IEEE TIFS 2022) is
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
from facepurify.weights import read_manifest

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
    parser.add_argument(
        "--purifier", action="append", metavar="NAME|ONNX", help="or a chain; repeat"
    )
    parser.add_argument("--batch", action="append", type=int, help="repeat (1, 8, 32, 128)")
    parser.add_argument("--threads", action="append", type=int, help="repeat (1, 2)")
    parser.add_argument(
        "--no-published", action="store_true", help="only the recognizer: minutes less"
    )
    parser.add_argument("--out", metavar="JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    published = None if options.no_published else PublishedPin().eval()
    if published is not None:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            published.selector(torch.zeros(1, 3, 112, 112))
        print(f"published networks: {counter.get_total_flops() / 2e9:.2f} GMAC")

    def rivals(images: np.ndarray, threads: int) -> dict[str, Callable[[np.ndarray], object]]:
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = threads
        recognizer = onnxruntime.InferenceSession(
            options.recognizer, session_options, providers=["CPUExecutionProvider"]
        )
        pixels = images[..., ::-1].transpose(0, 3, 1, 2)
        feed = {recognizer.get_inputs()[0].name: (pixels.astype(np.float32) - 127.5) / 127.5}
        steps: dict[str, Callable[[np.ndarray], object]] = {
            "recognizer": lambda _: recognizer.run(None, feed)
        }
        if published is not None and threads == 1 and len(images) <= 32:
            batch = torch.from_numpy(pixels / np.float32(255))

            def run_published(_: np.ndarray) -> None:
                with torch.inference_mode():
                    published(batch)

            steps["published PIN"] = run_published
        return steps

    record: dict[str, dict[str, float]] = {}
    for threads in options.threads or [1, 2]:
        for batch in options.batch or [1, 8, 32, 128]:
            images = np.random.default_rng(0).integers(0, 256, (batch, 112, 112, 3), np.uint8)
            print(f"batch {batch}, milliseconds an image, {threads} thread(s)")
            where = f"batch {batch}" + ("" if threads == 1 else f", {threads} threads")
            for name in options.purifier or [*read_manifest().models, "uddn+pin"]:
                purify = Purifier(name, threads=threads).purify
                for other, step in rivals(images, threads).items():
                    # Two at a time, as they would stand behind each other: what a third one leaves
                    # in the caches is not theirs to pay for.
                    repeats = max(15, 50 // batch)
                    times = median_times({name: purify, other: step}, images, repeats)
                    mine, theirs = (1000 * times[key] / batch for key in (name, other))
                    record[f"{name}, {other}, {where}"] = {name: mine, other: theirs}
                    print(
                        f"  {name} {mine:.2f}, {other} {theirs:.2f}: {mine / theirs:.3f} of its "
                        f"time, {theirs / mine:.1f} x faster"
                    )
    if options.out:
        with atomic_path(options.out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
