"""The benchmark: attacks on face recognizers, purifiers in front of them, what is left of both.

Run as ``python -m facepurify.bench``. Needs the ``bench`` extra.
"""

from facepurify.extras import require

__all__: list[str] = []

require("bench", "torch", "torchvision", "onnx", "onnx2torch", "skimage", "matplotlib", "jinja2")
