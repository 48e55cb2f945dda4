"""ArcFace's loss for the faces that have an identity."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ArcFace"]


class ArcFace(nn.Module):
    """Additive angular margin (Deng et al., CVPR 2019, arXiv 1801.07698, eq. 3).

    Args:
        dim: length of an embedding.
        classes: identities.
        scale: s; published 64.
        margin: m in radians; published 0.5.
    """

    def __init__(self, dim: int, classes: int, *, scale: float = 64.0, margin: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, dim) / math.sqrt(dim))
        self.scale = scale
        self.margin = margin

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        """Mean loss of unit embeddings [N, d] with int64 labels [N]; -1 means no identity.

        Zero, with gradients of zeros, where no face of the batch has an identity.
        """
        known = label >= 0
        if not bool(known.any()):
            # The weights' too: processes that train together average all that they have.
            return (embedding.sum() + self.weight.sum()) * 0
        embedding, label = embedding[known], label[known]
        cosine = (embedding @ nn.functional.normalize(self.weight).T).clamp(-1, 1)
        own = cosine.gather(1, label[:, None])
        # Off the ends of arccos, whose slope is infinite there.
        angle = own.clamp(-1 + 1e-6, 1 - 1e-6).arccos()
        # Beyond pi the cosine would rise again: there the published code goes on in a line.
        pushed = torch.where(
            angle + self.margin <= math.pi,
            (angle + self.margin).cos(),
            own - self.margin * math.sin(self.margin),
        )
        logits = self.scale * cosine.scatter(1, label[:, None], pushed)
        return nn.functional.cross_entropy(logits, label)
