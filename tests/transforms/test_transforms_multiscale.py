"""Squeezing, and levels from which half of the channels leave: where every number goes, and autograd's Jacobian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pushforward.core.context import Context
from pushforward.core.transform import Compose, Transform
from pushforward.nets.convolution import ConvNet
from pushforward.transforms.coupling import Coupling, halves
from pushforward.transforms.linear import LU
from pushforward.transforms.monotone import Affine
from pushforward.transforms.multiscale import MultiScale
from pushforward.transforms.normalise import ActNorm
from pushforward.transforms.reshape import Squeeze

WIDE = torch.float64


def random(module: nn.Module, std: float = 0.3) -> nn.Module:
    generator = torch.Generator().manual_seed(4)
    for p in module.parameters():
        nn.init.normal_(p, std=std, generator=generator)
    return module


# squeezing


def test_blocks_become_pixels_like_the_squares_of_a_chess_board() -> None:
    x = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    z = Squeeze().pull(x)[0]
    assert z.shape == (1, 8, 2, 3)
    for k, (i, j) in enumerate([(0, 0), (1, 1), (0, 1), (1, 0)]):
        for colour in range(2):
            assert torch.equal(z[0, 2 * k + colour], x[0, colour, i::2, j::2])
    half = Squeeze().push(torch.cat([z[:, :4], torch.full_like(z[:, 4:], -1)], 1))
    assert torch.equal(half[0, 0] >= 0, (torch.arange(4)[:, None] + torch.arange(6)) % 2 == 0)


@pytest.mark.parametrize("factor", [2, 3, (1, 2), (2, 1), (2, 3)])
def test_squeezing_only_moves_numbers(factor: int | tuple[int, int]) -> None:
    rows, columns = (factor, factor) if isinstance(factor, int) else factor
    x = torch.randn(3, 2, 2 * rows, 3 * columns)
    transform = Squeeze(factor)
    z, score = transform.pull(x)
    assert z.shape == (3, 2 * rows * columns, 2, 3)
    assert torch.equal(score, torch.zeros(3))
    assert torch.equal(transform.push(z), x)
    assert torch.equal(transform.spread(x > 0.3), z > 0.3)
    assert torch.equal(z.flatten(1).sort().values, x.flatten(1).sort().values)


def test_blocks_that_do_not_fill_the_picture_are_refused() -> None:
    with pytest.raises(ValueError, match="found 4×5 pixels"):
        Squeeze().pull(torch.zeros(1, 1, 4, 5))


# levels


def three_levels(context: int = 0) -> tuple[Transform, tuple[int, ...]]:
    """8×8 pixels of one colour: 4 channels of 4×4, then 8 of 2×2, then 16 of one pixel; and the same with other factors."""

    def level(channels: int) -> Transform:
        net = ConvNet(channels - channels // 2, 2 * (channels // 2), (5,), context=context)
        return Compose([Coupling(halves(channels, 0), net, Affine()), LU(channels), ActNorm(channels), Squeeze()])

    shapes = [(4, 4, 4), (8, 2, 2), (16, 1, 1)]
    return MultiScale([random(level(c)) for c, _, _ in shapes], shapes), (1, 8, 8)


def two_levels(context: int = 0) -> tuple[Transform, tuple[int, ...]]:
    """An odd number of channels: three leave of six, one of three stays behind the other two."""
    first = Compose([LU(6), ActNorm(6), Squeeze((1, 2))])
    second = Compose([Coupling(halves(3, 0), ConvNet(2, 2, (4,), context=context), Affine()), LU(3), ActNorm(3)])
    third = Compose([ActNorm(2), LU(2)])
    shapes = [(6, 3, 1), (3, 3, 1), (2, 3, 1)]
    return random(MultiScale([first, second, third], shapes)), (3, 3, 2)


every = pytest.mark.parametrize("make", [three_levels, two_levels])


@every
def test_v_is_the_log_determinant_of_the_jacobian(make) -> None:
    torch.manual_seed(0)
    transform, shape = make(context=3)
    transform.double()
    x, c = torch.randn(3, *shape, dtype=WIDE), torch.randn(3, 3, dtype=WIDE)
    z, score = transform.pull(x, Context(vector=c))
    assert z.shape == (3, x[0].numel())
    for i in range(3):
        one = Context(vector=c[i : i + 1])
        jacobian = torch.autograd.functional.jacobian(lambda v, one=one: transform.pull(v[None], one)[0][0], x[i])
        truth = float(torch.linalg.slogdet(jacobian.reshape(x[i].numel(), -1)).logabsdet)
        assert float(score[i].detach()) == pytest.approx(truth, abs=1e-8)
        assert abs(truth) > 0.1
    again, same = transform.push_scored(z, Context(vector=c))
    torch.testing.assert_close(again, x)
    torch.testing.assert_close(same, score)
    torch.testing.assert_close(transform.push(z, Context(vector=c)), x)
    assert not torch.isclose(transform.pull(x, Context(vector=c + 1))[1], score).any()


@every
@pytest.mark.parametrize(("dtype", "size"), [(WIDE, 1.0), (WIDE, 1e4), (torch.float32, 1.0), (torch.float32, 10.0)])
def test_push_and_pull_undo_one_another(make, dtype: torch.dtype, size: float) -> None:
    transform, shape = random(make()[0], 0.1).to(dtype), make()[1]
    x = size * torch.randn(20, *shape, dtype=dtype)
    tolerance = max(1.0, size) * (1e-8 if dtype == WIDE else 2e-4)
    assert float((transform.push(transform.pull(x)[0]) - x).detach().abs().max()) < tolerance


def test_the_coarsest_level_comes_first_and_what_left_first_comes_last() -> None:
    class Name(Compose):
        """Squeezes, then adds its number, so that every latent number tells which levels it met."""

        def __init__(self, number: float) -> None:
            super().__init__([Squeeze()])
            self.number = number

        def pull(self, x: Tensor, context=None, draws=None) -> tuple[Tensor, Tensor]:
            z, score = super().pull(x)
            return z + self.number, score

        def push(self, z: Tensor, context=None) -> Tensor:
            return super().push(z - self.number)

    transform = MultiScale([Name(1.0), Name(10.0), Name(100.0)], [(4, 4, 4), (8, 2, 2), (16, 1, 1)])
    x = torch.zeros(2, 1, 8, 8)
    z, score = transform.pull(x)
    assert z[0].tolist() == [111.0] * 16 + [11.0] * 16 + [1.0] * 32
    assert torch.equal(score, torch.zeros(2))
    assert torch.equal(transform.push(z), x)


def test_all_levels_are_prepared() -> None:
    torch.manual_seed(0)
    transform, shape = three_levels()
    for module in transform.modules():
        if isinstance(module, ConvNet):
            nn.init.zeros_(module.last.weight)
            nn.init.zeros_(module.last.bias)
    x = 30 + 5 * torch.randn(200, *shape)
    z = transform.prepare(x)
    pulled = transform.pull(x)[0]
    torch.testing.assert_close(z, pulled)
    assert not z.requires_grad
    norms = [m for m in transform.modules() if isinstance(m, ActNorm)]
    assert len(norms) == 3
    blocks = Squeeze().pull(x)[0]
    torch.testing.assert_close(norms[0].shift.detach(), blocks.mean((0, 2, 3)))
    chain = list(transform.levels[0])  # type: ignore[arg-type]
    kept = chain[1].pull(norms[0].pull(blocks)[0])[0][:, :2]
    torch.testing.assert_close(norms[1].shift.detach(), Squeeze().pull(kept)[0].mean((0, 2, 3)).detach(), atol=1e-4, rtol=1e-4)
    assert float((norms[2].log_scale.detach().exp() - 1).abs().max()) > 0.05


def test_levels_and_shapes_belong_together() -> None:
    with pytest.raises(ValueError, match="expected one for each"):
        MultiScale([Squeeze()], [(4, 1, 1), (8, 1, 1)])
