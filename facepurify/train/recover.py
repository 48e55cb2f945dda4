"""From a shipped ONNX file back to a network that can learn on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from facepurify.errors import ModelContractError
from facepurify.images import SIZE
from facepurify.train.basis import Basis, Block
from facepurify.train.facenet import FaceNet
from facepurify.train.immune import ImmuneNet
from facepurify.train.immune_space import ImmuneSpace
from facepurify.train.pin import PinNet
from facepurify.train.quantise import widened
from facepurify.train.uddn import SIZES, UddnNet

__all__ = ["recover_facenet", "recover_pin", "recover_uddn"]

PIN = "pin."
FRONT, SPACE = "front", "space"
LOOKUPS = 4  # of an immune space, there and back, luma and chroma
SHARES = ("net.share", "net.pin.share")  # in the first an immune network had it, too
LAST_OF_FACENET = "embedding.4.0"
Layers = dict[str, list[Tensor]]


def recover_uddn(content: bytes) -> UddnNet:
    """The denoiser that ``export_purifier`` wrote, found by the names of its weights.

    An export folds batch norm into the convolutions. Here they keep what was folded, and batch
    norm becomes what is left: statistics of 0 and 1 that must not be measured anew (train with
    ``settled``), a gain of 1 and the folded bias. How many times the noise is taken off
    (``Pixels``) is none of its weights: it is once, again.

    Args:
        content: an ONNX file, checked against the contract; of UDDN, alone or behind a fixed
            projection, or of the immune network, which is one too.

    Raises:
        ModelContractError: it is no UDDN of ours.
    """
    graph = _Graph(content)
    layers = {name: each for name, each in graph.layers.items() if not name.startswith(PIN)}
    behind = len(layers) < len(graph.layers)
    for size in SIZES:
        net = UddnNet(size)
        if _layers_of(net).keys() == layers.keys():
            _fill_all(net, layers)
            if len(graph.indices) > LOOKUPS * behind:
                net.front = ImmuneSpace(_projection(graph))
            if behind:
                net = ImmuneNet(net, _pin(graph, PIN))
            return net.eval()
    raise ModelContractError(
        "expected a denoiser that `python -m facepurify.train export` wrote from a run of uddn, "
        f"got a model with {len(layers)} such layers"
    )


def recover_pin(content: bytes) -> PinNet:
    """The PIN that ``export_purifier`` wrote with a light selector; batch norm as above.

    The eigenfaces are those of the file, in half precision. Of an immune network it is the
    projection behind the denoiser; its own score, which that file lacks, is new.

    Args:
        content: an ONNX file, checked against the contract.

    Raises:
        ModelContractError: it is no such PIN.
    """
    graph = _Graph(content)
    return _pin(graph, PIN if any(name.startswith(PIN) for name in graph.layers) else "")


def recover_facenet(content: bytes, blob: Tensor) -> FaceNet:
    """The recognizer that ``export_recognizer`` wrote from one of the default widths.

    Its batch norms are whole again, so that it can be trained on as any other: their statistics are
    measured on ``blob``, gain and bias make up for them.

    Args:
        content: an ONNX file.
        blob: normalised faces [N, 3, 112, 112], as many as give statistics.

    Raises:
        ModelContractError: it is no such recognizer.
    """
    layers = _Graph(content).layers
    last = layers.get(LAST_OF_FACENET)
    net = FaceNet(len(last[0]) if last else 1).eval()
    if _layers_of(net).keys() != layers.keys():
        raise ModelContractError(
            "expected a recognizer that `python -m facepurify.train recognizer` wrote, got one "
            f"with {len(layers)} such layers"
        )
    _fill_all(net, layers)
    norms = [each for each in net.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]
    # Each is renewed when it is reached, and gives on what it would have given.
    hooks = [norm.register_forward_pre_hook(_renew) for norm in norms]
    with torch.no_grad():
        net(blob)
    for hook in hooks:
        hook.remove()
    return net


def _renew(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    (given,) = inputs
    if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) or norm.running_var is None:
        raise ModelContractError(f"expected batch norm, got {norm}")
    variance, mean = torch.var_mean(given, dim=[0, *range(2, given.dim())])
    norm.running_mean = mean
    norm.running_var = variance
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.add_(mean)


class _Graph:
    """The weights of an exported network under the names that it had in torch."""

    def __init__(self, content: bytes) -> None:
        graph = widened(onnx.load_model_from_string(content)).graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.layers: Layers = {}
        self.indices: list[npt.NDArray[np.int64]] = []
        for node in graph.node:
            if node.op_type in ("Conv", "Gemm") and node.input[1].endswith(".weight"):
                name = node.input[1].removesuffix(".weight").removeprefix("net.")
                found = map(self.array, node.input[1:])
                self.layers[name] = [torch.tensor(each) for each in found if each is not None]
            elif node.op_type == "Gather" and (index := self.array(node.input[1])) is not None:
                self.indices.append(index.astype(np.int64))

    def array(self, name: str) -> npt.NDArray[np.generic] | None:
        """A constant in single precision, however it is kept; None if there is none."""
        if half := self.constants.get(f"{name}.half"):
            return numpy_helper.to_array(half).astype(np.float32)
        tensor = self.constants.get(name)
        return None if tensor is None else np.array(numpy_helper.to_array(tensor))

    def floats(self, name: str) -> npt.NDArray[np.float32]:
        """A weight of the network, by its name in torch.

        What is the same before and behind a denoiser the exporter keeps once, under either name.
        """
        front, behind = FRONT, PIN + SPACE
        twin = name.replace(front, behind) if front in name else name.replace(behind, front)
        found = (self.array(f"net.{each}") for each in (name, twin))
        array = next((each for each in found if each is not None), None)
        if array is None:
            raise ModelContractError(
                "expected a model that `python -m facepurify.train export` wrote from a run of "
                f"pin, got one without {name}"
            )
        return array.astype(np.float32)


def _projection(graph: _Graph) -> Basis:
    """The eigenfaces of a fixed projection, whose file does not say how common each is."""
    names = [f"{FRONT}.{plane}.{side}" for plane in ("luma", "chroma")
             for side in ("symmetric", "antisymmetric")]  # fmt: skip
    count = sum(graph.floats(name).shape[1] for name in names)
    return _basis(graph, FRONT, np.ones(count, np.float32))


def _basis(graph: _Graph, name: str, eigenvalues: npt.NDArray[np.float32]) -> Basis:
    luma, rest = _blocks(graph, f"{name}.luma", 1, eigenvalues)
    chroma, _ = _blocks(graph, f"{name}.chroma", 2, rest)
    return Basis(luma, chroma)


def _pin(graph: _Graph, prefix: str) -> PinNet:
    name = prefix + SPACE
    net = PinNet(_basis(graph, name, graph.floats(f"{name}.eigenvalues")))
    layers = {
        name.removeprefix(prefix): each
        for name, each in graph.layers.items()
        if name.startswith(prefix)
    }
    # The immune network's score is the denoiser's, so its file lacks this head.
    layers.setdefault("suspicion", [net.suspicion.weight, net.suspicion.bias])
    if _layers_of(net).keys() != layers.keys():
        raise ModelContractError(
            f"expected a PIN with a light selector, got one with {len(layers)} such layers"
        )
    _fill_all(net, layers)
    for share in map(graph.array, SHARES):
        if share is not None:  # what was written before there was one took all off
            net.take_off(float(share))
    with torch.no_grad():
        net.evidence.copy_(torch.tensor(graph.floats(f"{prefix}evidence")))
        norm = net.selector.encoder[7]  # folded into the linear layer before it, bias and all
        if isinstance(norm, nn.BatchNorm1d) and norm.running_var is not None:
            norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    return net.eval()


def _blocks(
    graph: _Graph, name: str, planes: int, eigenvalues: npt.NDArray[np.float32]
) -> tuple[tuple[Block, Block], npt.NDArray[np.float32]]:
    """Symmetric and antisymmetric eigenfaces of that name, and the eigenvalues left for others."""
    even, odd = graph.floats(f"{name}.symmetric"), graph.floats(f"{name}.antisymmetric")
    side = len(graph.floats(f"{name}.dct"))
    count = (len(even) + len(odd)) // planes
    indices = graph.indices if name.startswith(FRONT) else graph.indices[::-1]
    places = next((each for each in indices if len(each) == count), None)
    if places is None:
        raise ModelContractError(f"expected {count} frequencies to gather for {name}, got none")
    zone = places // side * SIZE + places % side
    split = len(even) // planes
    first, second, rest = np.split(eigenvalues, np.cumsum([even.shape[1], odd.shape[1]]))
    return (
        Block(zone[:split], graph.floats(f"{name}.mean"), even, first),
        Block(zone[split:], np.zeros(len(odd), np.float32), odd, second),
    ), rest


def _layers_of(net: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    return {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def _fill_all(net: nn.Module, layers: Layers) -> None:
    for name, module in _layers_of(net).items():
        _fill(net, name, module, layers[name])


def _fill(net: nn.Module, name: str, module: nn.Conv2d | nn.Linear, values: list[Tensor]) -> None:
    weight, *rest = values
    bias = rest[0] if rest else torch.zeros(len(weight))  # an export leaves a bias of zeros out
    if weight.shape != module.weight.shape or bias.shape != weight.shape[:1]:
        raise ModelContractError(
            f"expected {name} of {tuple(module.weight.shape)}, got {tuple(weight.shape)}"
        )
    with torch.no_grad():
        module.weight.copy_(weight)
        if module.bias is not None:
            module.bias.copy_(bias)
            return
        # Convolutions without a bias are the first of a sequence, their batch norm the second.
        norm = net.get_submodule(name.removesuffix(".0") + ".1")
        if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) or norm.running_var is None:
            raise ModelContractError(f"expected batch norm after {name}, got {norm}")
        norm.bias.copy_(bias)
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
