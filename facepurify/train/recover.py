"""From a shipped ONNX denoiser back to a network that can learn on."""

from __future__ import annotations

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from facepurify.errors import ModelContractError
from facepurify.train.quantise import widened
from facepurify.train.uddn import SIZES, UddnNet

__all__ = ["recover_uddn"]


def recover_uddn(content: bytes) -> UddnNet:
    """The denoiser that ``export_purifier`` wrote, found by the names of its weights.

    An export folds batch norm into the convolutions. Here they keep what was folded, and batch
    norm becomes what is left: statistics of 0 and 1 that must not be measured anew (train with
    ``settled``), a gain of 1 and the folded bias.

    Args:
        content: an ONNX file, checked against the contract.

    Raises:
        ModelContractError: it is no UDDN of ours.
    """
    graph = widened(onnx.load_model_from_string(content)).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    layers = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm") and node.input[1].endswith(".weight"):
            name = node.input[1].removesuffix(".weight").removeprefix("net.")
            layers[name] = [
                torch.tensor(numpy_helper.to_array(constants[each]))
                for each in node.input[1:]
                if each in constants
            ]
    for size in SIZES:
        net = UddnNet(size)
        wanted = {
            name: module
            for name, module in net.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        }
        if wanted.keys() == layers.keys():
            for name, module in wanted.items():
                _fill(net, name, module, layers[name])
            return net.eval()
    raise ModelContractError(
        "expected a denoiser that `python -m facepurify.train export` wrote from a run of uddn, "
        f"got a model with {len(layers)} such layers"
    )


def _fill(net: UddnNet, name: str, module: nn.Conv2d | nn.Linear, values: list[Tensor]) -> None:
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
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
            raise ModelContractError(f"expected batch norm after {name}, got {norm}")
        norm.bias.copy_(bias)
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
