"""Training: from folders of faces and guide recognizers to an ONNX purifier of the contract.

Run as ``python -m facepurify.train COMMAND``. Needs the ``train`` extra.
"""

__all__: list[str] = []
