"""Linear maps of the coordinates of vectors, or of the channels of pictures, the same map at each pixel.

    z = W x,    V = N log|det W|

with N = 1 for vectors (B, D) and N = H·W for pictures (B, D, H, W), where W is an invertible 1×1 convolution. What makes the
determinant and the inverse cheap is how W is written:

| class | W | log of the determinant |
|---|---|---|
| ``Permute`` | a fixed permutation | 0 |
| ``LU`` | P L U: P fixed, L unit lower, U upper, U_ii = ± exp(s_i) (Kingma & Dhariwal 2018, arXiv:1807.03039) | Σ s_i |
| ``Householder`` | H_1 … H_K, H_k = I − 2 v_k v_kᵀ/v_kᵀv_k (Tomczak & Welling 2016, arXiv:1611.09630) | 0 |

There is one product a direction: the factors are multiplied out first, which costs what D rows do, and applied one by one only
where there are fewer rows than that. Reflections are never taken one after the other: with unit vectors v_k as the columns of Y
their product is I − Y S⁻¹ Yᵀ, S = ½ I + the part of YᵀY above the diagonal (Joffrain et al. 2006, the compact WY form).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.core.context import Context
from pushforward.core.random import Draws
from pushforward.core.transform import Elementwise, Transform

STARTS = ("identity", "rotation")


def mix(matrix: Tensor, x: Tensor) -> Tensor:
    """``matrix`` (D, D) times the D coordinates of x (B, D), or channels of (B, D, H, W), at full precision."""
    # volumes and inverses hold for the numbers computed, so mixed precision stays out of here
    with torch.autocast(x.device.type, enabled=False):
        return torch.matmul(matrix, x.flatten(2)).view_as(x) if x.dim() > 2 else x @ matrix.T


class Permute(Elementwise):
    """A fixed permutation of dimension 1: z_i = x_order[i], V = 0."""

    order: Tensor
    back: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        if not torch.equal(order.sort().values, torch.arange(len(order), device=order.device)):
            raise ValueError(f"found {order.tolist()}: expected each of 0 … {len(order) - 1} once")
        self.register_buffer("order", order.clone())
        self.register_buffer("back", order.argsort())

    @classmethod
    def reversed(cls, size: int) -> Permute:
        """The last becomes the first."""
        return cls(torch.arange(size).flip(0))

    @classmethod
    def random(cls, size: int) -> Permute:
        """Any order, by torch's global random numbers."""
        return cls(torch.randperm(size))

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return z.index_select(1, self.back)

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), torch.zeros(len(x), dtype=x.dtype, device=x.device)

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        return self.push(z), torch.zeros(len(z), dtype=z.dtype, device=z.device)

    def spread(self, observed: Tensor) -> Tensor:
        return observed.index_select(1, self.order)


def rotation(size: int) -> Tensor:
    """A random orthogonal matrix (D, D), float64, by torch's global random numbers."""
    q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))
    return q * r.diagonal().sign()


class LU(Transform):
    """W = P L U for ``size`` D coordinates; starts as a random ``rotation`` or as the ``identity``.

    The parameter ``factors`` (D, D) holds L below the diagonal, s on it and U above it; ``order`` and the signs of U's diagonal
    are fixed, so W can never become singular.
    """

    order: Tensor
    back: Tensor
    sign: Tensor

    def __init__(self, size: int, start: str = "rotation") -> None:
        super().__init__()
        if start not in STARTS:
            raise ValueError(f"start is one of {STARTS}, found {start!r}")
        matrix = rotation(size) if start == "rotation" else torch.eye(size, dtype=torch.float64)
        p, lower, upper = torch.linalg.lu(matrix)
        diagonal = upper.diagonal()
        factors = lower.tril(-1) + diagonal.abs().log().diag() + upper.triu(1)
        self.factors = nn.Parameter(factors.to(torch.get_default_dtype()))
        order = p.argmax(1)
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())
        self.register_buffer("sign", diagonal.sign().to(torch.get_default_dtype()))

    def _triangles(self) -> tuple[Tensor, Tensor]:
        lower = self.factors.tril(-1) + torch.eye(len(self.factors), dtype=self.factors.dtype, device=self.factors.device)
        return lower, self.factors.triu(1) + (self.sign * self.factors.diagonal().exp()).diag()

    def _score(self, x: Tensor) -> Tensor:
        places = x[0, 0].numel() if len(x) else 1
        return (places * self.factors.diagonal().sum()).expand(len(x))

    def _few(self, x: Tensor) -> bool:
        return x.numel() < self.factors.numel()

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        lower, upper = self._triangles()
        if self._few(x):
            return mix(lower, mix(upper, x)).index_select(1, self.order), self._score(x)
        with torch.autocast(x.device.type, enabled=False):
            matrix = (lower @ upper).index_select(0, self.order)
        return mix(matrix, x), self._score(x)

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        lower, upper = self._triangles()
        if not self._few(z):
            permuted = torch.eye(len(lower), dtype=lower.dtype, device=lower.device).index_select(0, self.back)
            return mix(self._solve(lower, upper, permuted), z)
        columns = z.index_select(1, self.back).transpose(0, 1)
        solved = self._solve(lower, upper, columns.reshape(len(lower), -1))
        return solved.view_as(columns).transpose(0, 1)

    @staticmethod
    def _solve(lower: Tensor, upper: Tensor, right: Tensor) -> Tensor:
        """U⁻¹ L⁻¹ ``right`` (D, N)."""
        right = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, right, upper=True)

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        return self.push(z), self._score(z)


class Householder(Transform):
    """An orthogonal W of ``size`` D coordinates, the product of ``reflections`` K (D of them when not given), V = 0.

    D reflections reach every orthogonal matrix of determinant (−1)ᴰ. Starts at random, or as the ``identity``, by pairs of
    equal reflections, for which K must be even.
    """

    def __init__(self, size: int, reflections: int | None = None, start: str = "rotation") -> None:
        super().__init__()
        count = size if reflections is None else reflections
        if start not in STARTS:
            raise ValueError(f"start is one of {STARTS}, found {start!r}")
        if count < 1:
            raise ValueError(f"found {count} reflections: expected one at least")
        if start == "identity" and count % 2:
            raise ValueError(f"found {count} reflections: an identity takes an even number of them")
        vectors = torch.randn(count, size)
        if start == "identity":
            # mirrored, so that neighbours cancel from the middle outwards
            vectors[count // 2 :] = vectors[: count // 2].flip(0)
        self.vectors = nn.Parameter(vectors)

    def _turned(self, x: Tensor, transposed: bool) -> Tensor:
        """W x, or Wᵀ x."""
        count, size = self.vectors.shape
        with torch.autocast(x.device.type, enabled=False):
            y = F.normalize(self.vectors, dim=1).T
            s = (y.T @ y).triu(1) + 0.5 * torch.eye(count, dtype=y.dtype, device=y.device)
            if transposed:
                right = torch.linalg.solve_triangular(s.T, y.T, upper=False)
            else:
                right = torch.linalg.solve_triangular(s, y.T, upper=True)
            if 2 * count < size:
                columns = x.flatten(2) if x.dim() > 2 else x.T
                return x - (y @ (right @ columns)).view_as(x) if x.dim() > 2 else x - (y @ (right @ columns)).T
            return mix(torch.eye(size, dtype=y.dtype, device=y.device) - y @ right, x)

    def push(self, z: Tensor, context: Context | None = None) -> Tensor:
        return self._turned(z, transposed=True)

    def pull(self, x: Tensor, context: Context | None = None, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        return self._turned(x, transposed=False), torch.zeros(len(x), dtype=x.dtype, device=x.device)

    def push_scored(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        return self.push(z), torch.zeros(len(z), dtype=z.dtype, device=z.device)
