"""Face recognizers to attack and to judge with: an ArcFace-style ONNX as a torch module."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from facepurify.bench.conversion import to_torch
from facepurify.errors import ModelContractError, ModelNotFoundError
from facepurify.images import SIZE

__all__ = ["Recognizer"]

CHUNK = 64
PARITY = 1e-3
Floats = npt.NDArray[np.float32]


class Recognizer(nn.Module):
    """A pretrained recognizer, frozen, with gradients for its input.

    Made by ``Recognizer.from_onnx``. Calling it is ``embed``.

    Attributes:
        name: the file's name without its suffix.
        sha256: of the file.
        dim: length d of an embedding.
    """

    def __init__(
        self,
        name: str,
        sha256: str,
        net: nn.Module,
        session: onnxruntime.InferenceSession,
        *,
        mean: float,
        std: float,
        dim: int,
    ) -> None:
        super().__init__()
        self.name = name
        self.sha256 = sha256
        self.dim = dim
        self._mean = mean
        self._std = std
        self._session = session
        # On CPUs, channels last is 2 to 6 times faster for these depthwise networks.
        self._net = net.to(memory_format=torch.channels_last)

    @staticmethod
    def from_onnx(
        path: str | Path, device: str | torch.device = "cpu", *, threads: int | None = None
    ) -> Recognizer:
        """Reads an ArcFace-style ONNX recognizer.

        The input's mean and deviation follow insightface's rule: 127.5 and 127.5, unless the
        graph begins with a subtraction and a multiplication of its own.

        Args:
            path: one file with input [N, 3, 112, 112] and one output [N, d]; one that states its N,
                as OpenCV's SFace does, is run with any.
            device: where torch computes; ONNX Runtime, which judges, stays on the CPU.
            threads: of ONNX Runtime; None for its default.

        Raises:
            ModelNotFoundError: there is no such file.
            ModelContractError: it is no such recognizer, it can only do the N that it states, or
                torch and ONNX Runtime disagree on its embeddings by more than 1e-3.
        """
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelNotFoundError(
                f"expected a recognizer's .onnx file, got {path}: {error.strerror}"
            ) from error
        model = _of_any_batch(_parse(path, data))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise ModelContractError(
                f"expected a recognizer that ONNX Runtime can load, got {path}: {error}"
            ) from error
        dim = _checked_dim(path, session)
        try:
            net = to_torch(model)
        except NotImplementedError as error:
            raise ModelContractError(
                f"expected a recognizer that onnx2torch can convert, got {path}: {error}"
            ) from error
        own_norm = _normalises_itself(model)
        recognizer = Recognizer(
            path.stem,
            hashlib.sha256(data).hexdigest(),
            net,
            session,
            mean=0.0 if own_norm else 127.5,
            std=1.0 if own_norm else 127.5,
            dim=dim,
        ).to(device)
        recognizer._check_parity(path)
        return recognizer

    @property
    def net(self) -> nn.Module:
        """The network itself: from normalised pixels to raw embeddings."""
        return self._net

    def embed(self, x: Tensor) -> Tensor:
        """Unit embeddings [N, d] of RGB images [N, 3, 112, 112] in [0, 1]; differentiable."""
        blob = (x * 255 - self._mean) / self._std
        raw = self._net(blob.contiguous(memory_format=torch.channels_last))
        return nn.functional.normalize(raw)

    forward = embed

    def embed_numpy(self, images: Floats) -> Floats:
        """The same by ONNX Runtime: fast, without gradients; what results are judged by."""
        name = self._session.get_inputs()[0].name
        parts = [
            self._session.run(None, {name: (chunk * 255 - self._mean) / self._std})[0]
            for chunk in np.split(images.astype(np.float32), range(CHUNK, len(images), CHUNK))
            if len(chunk)
        ]
        raw = np.concatenate([np.zeros((0, self.dim), np.float32), *parts])
        unit: Floats = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)
        return unit

    def trainable(self) -> nn.Module:
        """A copy of the network to train: [N, 3, 112, 112] RGB, (pixel - 127.5) / 127.5, to [N, d].

        Raises:
            ModelContractError: the graph normalises pixels itself, so its input is another.
        """
        if self._mean != 127.5:
            raise ModelContractError(
                f"expected a recognizer of (pixel - 127.5) / 127.5 to train, got {self.name}, "
                "whose graph begins with a normalisation of its own: export it without"
            )
        return copy.deepcopy(self._net).requires_grad_(True)

    def _check_parity(self, path: Path) -> None:
        images = np.random.default_rng(0).random((2, 3, SIZE, SIZE), dtype=np.float32)
        device = next(iter(self._net.state_dict().values())).device
        try:
            with torch.no_grad():
                ours = self.embed(torch.from_numpy(images).to(device)).cpu().numpy()
            theirs = self.embed_numpy(images)
        except Exception as error:  # torch's and ONNX Runtime's, which share no base class
            raise ModelContractError(
                f"expected a recognizer of any number of images, got {path}, which fails on "
                f"{len(images)}: export it with a free first dimension ({error})"
            ) from error
        difference = float(np.abs(ours - theirs).max())
        if not difference <= PARITY:
            raise ModelContractError(
                f"expected torch and ONNX Runtime to agree within {PARITY} on {path}, "
                f"got {difference:.2g}: the conversion of an operator is wrong"
            )


def _parse(path: Path, data: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError, whose module differs between versions
        raise ModelContractError(f"expected an ONNX file, got {path}: {error}") from error
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        raise ModelContractError(
            f"expected one file, got {path} with external data: save it in one file"
        )
    return model


def _of_any_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Declares the first dimension of what goes in and comes out free, if the file states it."""
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name not in stored and dims and dims[0].HasField("dim_value"):
            dims[0].dim_param = "N"
            # The shapes in between, if noted, are of that batch; they are worked out anew.
            del model.graph.value_info[:]
    return model


def _checked_dim(path: Path, session: onnxruntime.InferenceSession) -> int:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelContractError(
            "expected a recognizer with one input and one output, "
            f"got {path} with {len(inputs)} and {len(outputs)}"
        )
    shape = inputs[0].shape
    if len(shape) != 4 or list(shape[1:]) != [3, SIZE, SIZE]:
        raise ModelContractError(
            f"expected a recognizer of [N, 3, {SIZE}, {SIZE}], got {path} of {shape}"
        )
    dim = outputs[0].shape
    if len(dim) != 2 or not isinstance(dim[1], int):
        raise ModelContractError(f"expected embeddings [N, d], got {path} with output {dim}")
    return int(dim[1])


def _normalises_itself(model: onnx.ModelProto) -> bool:
    # The rule of insightface.model_zoo.arcface_onnx, which goes by node names.
    names = [node.name for node in model.graph.node[:8]]
    subtracts = any(name.startswith(("Sub", "_minus")) for name in names)
    multiplies = any(name.startswith(("Mul", "_mul")) for name in names)
    return subtracts and multiplies
