"""Training: from folders of faces and guide recognizers to an ONNX purifier of the contract.

Run as ``python -m facepurify.train COMMAND``. Needs the ``train`` extra.
"""

from facepurify.extras import require

__all__: list[str] = []

require("train", "torch", "torchvision", "onnx", "onnx2torch", "onnxscript", "skimage")
