"""The projection onto the immune space as a torch module: two matrix products for a batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from facepurify.images import SIZE
from facepurify.train.basis import RGB_TO_YCC, Basis, Block, dct_matrix

__all__ = ["ImmuneSpace"]


class ImmuneSpace(nn.Module):
    """Coefficients of a face on eigenfaces, and the face of (masked) coefficients.

    ``decode(a * encode(x))`` is P_a(x) = mu + V diag(a) V^T (x - mu) of PIN (arXiv 2207.06035).
    The luma's K_l coefficients come first, then the K_c of the chroma; K = K_l + K_c.
    """

    eigenvalues: Tensor
    to_ycc: Tensor
    to_rgb: Tensor

    def __init__(self, basis: Basis) -> None:
        super().__init__()
        self.luma = _Eigenfaces(basis.luma, planes=1)
        self.chroma = _Eigenfaces(basis.chroma, planes=2)
        self.count = self.luma.count + self.chroma.count
        self.register_buffer("to_ycc", torch.tensor(RGB_TO_YCC).float())
        self.register_buffer("to_rgb", torch.tensor(np.linalg.inv(RGB_TO_YCC)).float())
        values = [block.eigenvalues for block in (*basis.luma, *basis.chroma)]
        self.register_buffer("eigenvalues", torch.tensor(np.concatenate(values)))

    def basis(self) -> Basis:
        """The eigenfaces that it projects onto, as they were given."""
        luma, chroma = self.eigenvalues.split([self.luma.count, self.chroma.count])
        return Basis(self.luma.blocks(luma), self.chroma.blocks(chroma))

    def encode(self, x: Tensor) -> Tensor:
        """[N, 3, 112, 112] RGB in [0, 1] to coefficients [N, K]."""
        ycc = (self.to_ycc @ x.flatten(2)).unflatten(2, (SIZE, SIZE))
        return torch.cat([self.luma.encode(ycc[:, :1]), self.chroma.encode(ycc[:, 1:])], dim=1)

    def decode(self, coefficients: Tensor) -> Tensor:
        """Coefficients [N, K] to [N, 3, 112, 112] RGB, clipped to [0, 1]."""
        luma = self.luma.decode(coefficients[:, : self.luma.count])
        chroma = self.chroma.decode(coefficients[:, self.luma.count :])
        ycc = torch.cat([luma, chroma], dim=1)
        rgb = (self.to_rgb @ ycc.flatten(2)).unflatten(2, (SIZE, SIZE))
        result: Tensor = rgb.clamp(0, 1)
        return result


class _Eigenfaces(nn.Module):
    """Symmetric and antisymmetric eigenfaces of one or two image planes."""

    dct: Tensor
    gather: Tensor
    scatter: Tensor
    mean: Tensor
    symmetric: Tensor
    antisymmetric: Tensor

    def __init__(self, blocks: tuple[Block, Block], planes: int) -> None:
        super().__init__()
        even, odd = blocks
        self.planes = planes
        self.split = len(even.eigenvalues)
        self.count = self.split + len(odd.eigenvalues)
        zone = np.concatenate([even.zone, odd.zone])
        rows, columns = zone // SIZE, zone % SIZE
        # No kept frequency lies beyond this side, so the rest of the DCT is never computed.
        self.side = int(max(rows.max(), columns.max())) + 1
        self.register_buffer("dct", torch.tensor(dct_matrix()[: self.side]).float())
        gather = torch.tensor(rows * self.side + columns)
        # The way back: each frequency's place among the kept ones, or one past the last, a zero.
        scatter = torch.full((self.side**2,), len(gather))
        scatter[gather] = torch.arange(len(gather))
        self.register_buffer("gather", gather)
        self.register_buffer("scatter", scatter)
        self.even = len(even.zone)
        self.register_buffer("mean", torch.tensor(even.mean))
        self.register_buffer("symmetric", torch.tensor(even.components))
        self.register_buffer("antisymmetric", torch.tensor(odd.components))

    def blocks(self, eigenvalues: Tensor) -> tuple[Block, Block]:
        """The symmetric and the antisymmetric block, of which the latter's mean is zero."""
        places = self.gather.numpy()
        zone = places // self.side * SIZE + places % self.side
        even, odd = self.symmetric.numpy(), self.antisymmetric.numpy()
        values = eigenvalues.numpy()
        return (
            Block(zone[: self.even], self.mean.numpy(), even, values[: self.split]),
            Block(zone[self.even :], np.zeros(len(odd), np.float32), odd, values[self.split :]),
        )

    def encode(self, planes: Tensor) -> Tensor:
        block = self.dct @ planes @ self.dct.T
        kept = block.flatten(2).index_select(2, self.gather)
        even, odd = kept[:, :, : self.even].flatten(1), kept[:, :, self.even :].flatten(1)
        return torch.cat([(even - self.mean) @ self.symmetric, odd @ self.antisymmetric], dim=1)

    def decode(self, coefficients: Tensor) -> Tensor:
        even = coefficients[:, : self.split] @ self.symmetric.T + self.mean
        odd = coefficients[:, self.split :] @ self.antisymmetric.T
        parts = [part.unflatten(1, (self.planes, -1)) for part in (even, odd)]
        kept = nn.functional.pad(torch.cat(parts, dim=2), (0, 1))
        block = kept.index_select(2, self.scatter).unflatten(2, (self.side, self.side))
        result: Tensor = self.dct.T @ block @ self.dct
        return result
