"""What a guide recognizer sees: its embedding, the feature before it, and new readings of that."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from facepurify.bench.attacks import Embed
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import ModelContractError

__all__ = ["Guide"]


class Guide:
    """A recognizer with its last feature within reach.

    The feature is what goes into the last layer with weights (l = -2 of UDDN, eq. 5); the
    embedding is what comes out of it (l = -1).

    Args:
        recognizer: as torch has it.

    Raises:
        ModelContractError: it has no such layer.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self._layer = _last_layer(recognizer)

    def embed(self, x: Tensor) -> Tensor:
        """Unit embeddings [N, d] of RGB images [N, 3, 112, 112] in [0, 1]; differentiable."""
        return self.recognizer.embed(x)

    def feature(self, x: Tensor) -> Tensor:
        """The same images' features [N, F]; differentiable."""
        seen: list[Tensor] = []

        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.append(inputs[0])

        # A hook that stayed would keep the graph of every later call alive.
        with self._layer.register_forward_pre_hook(see):
            self.recognizer.embed(x)
        if not seen:
            raise ModelContractError(f"expected {self.recognizer.name} to run its last layer")
        return seen[-1].flatten(1)

    def redrawn(self, x: Tensor, generator: torch.Generator) -> Embed:
        """An embedding by a last layer drawn at random: another recognizer, of the same body.

        Args:
            x: clean images; their mean feature is taken off, since a random layer would pass it
                on as a direction that all faces share.
            generator: of the layer.
        """
        with torch.no_grad():
            feature = self.feature(x)
        mean = feature.mean(dim=0)
        layer = torch.randn(feature.shape[1], self.recognizer.dim, generator=generator)

        def embed(images: Tensor) -> Tensor:
            return nn.functional.normalize((self.feature(images) - mean) @ layer)

        return embed


def _last_layer(recognizer: Recognizer) -> nn.Module:
    net = recognizer.net
    nodes: list[fx.Node] = list(net.graph.nodes) if isinstance(net, fx.GraphModule) else []
    for node in reversed(nodes):
        if node.op == "call_module":
            layer = net.get_submodule(str(node.target))
            if isinstance(layer, nn.Linear | nn.Conv2d) or type(layer).__name__ == "OnnxMatMul":
                return layer
    raise ModelContractError(
        f"expected a recognizer that ends in a linear layer or a convolution, got {recognizer.name}"
    )
