"""ActNorm: what it is set to, and the affine map it then is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pushforward.core.transform import Compose
from pushforward.transforms.linear import LU
from pushforward.transforms.normalise import ActNorm
from pushforward.transforms.reshape import Squeeze

WIDE = torch.float64


def random(size: int) -> ActNorm:
    transform = ActNorm(size)
    generator = torch.Generator().manual_seed(4)
    for p in transform.parameters():
        nn.init.normal_(p, std=0.8, generator=generator)
    return transform


@pytest.mark.parametrize("shape", [(4,), (4, 3, 2)], ids=["vectors", "pictures"])
def test_v_is_the_log_determinant_of_the_jacobian(shape: tuple[int, ...]) -> None:
    transform = random(4).double()
    x = torch.randn(3, *shape, dtype=WIDE)
    z, score = transform.pull(x)
    jacobian = torch.autograd.functional.jacobian(lambda v: transform.pull(v[None])[0][0], x[0])
    truth = float(torch.linalg.slogdet(jacobian.reshape(x[0].numel(), -1)).logabsdet)
    assert abs(truth) > 0.1
    torch.testing.assert_close(score.detach(), torch.full((3,), truth, dtype=WIDE))
    again, same = transform.push_scored(z)
    torch.testing.assert_close(again, x)
    assert torch.equal(same, score)


@pytest.mark.parametrize("dtype", [WIDE, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e30])
def test_push_and_pull_undo_one_another(dtype: torch.dtype, size: float) -> None:
    transform = random(4).to(dtype)
    x = size * torch.randn(9, 4, 3, 3, dtype=dtype)
    for back in (transform.push(transform.pull(x)[0]), transform.pull(transform.push(x))[0]):
        assert back.dtype == dtype
        assert float((back - x).detach().abs().max()) < size * (1e-9 if dtype == WIDE else 1e-4)


@pytest.mark.parametrize("shape", [(3,), (3, 5, 4)], ids=["vectors", "pictures"])
def test_it_starts_from_data(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    scale, middle = (
        torch.tensor(v, dtype=WIDE).view(3, *(1,) * (len(shape) - 1)) for v in ([0.01, 2.0, 0.0], [5.0, -3e6, 7.0])
    )
    x = middle + scale * torch.randn(400, *shape, dtype=WIDE).exp()
    transform = ActNorm(3).double()
    z = transform.prepare(x)
    values = x.transpose(0, 1).flatten(1)
    torch.testing.assert_close(transform.shift.detach(), values.mean(1))
    torch.testing.assert_close(transform.log_scale[:2].exp().detach(), values[:2].std(1, unbiased=False))
    assert float(transform.log_scale[2].detach()) == 0  # never varies
    seen = z.transpose(0, 1).flatten(1)
    torch.testing.assert_close(seen.mean(1), torch.zeros(3, dtype=WIDE), atol=1e-6, rtol=0.0)
    torch.testing.assert_close(seen[:2].std(1, unbiased=False), torch.ones(2, dtype=WIDE))
    assert z.requires_grad or torch.equal(z, transform.pull(x)[0])


def test_one_row_is_enough_to_start() -> None:
    transform = ActNorm(4)
    z = transform.prepare(torch.randn(1, 4))
    assert float(z.detach().abs().max()) < 1e-6
    assert not transform.log_scale.detach().any()


def test_a_chain_is_prepared_from_the_data_to_the_latent() -> None:
    torch.manual_seed(1)
    first, second, mixing = ActNorm(8), ActNorm(8), LU(8)
    chain = Compose([first, mixing, second, Squeeze()])  # in the order of push
    x = 40 + 9 * torch.randn(300, 2, 6, 4).exp()
    z = chain.prepare(x)
    blocks = Squeeze().pull(x)[0]
    torch.testing.assert_close(second.shift.detach(), blocks.mean((0, 2, 3)))
    mixed = mixing.pull(second.pull(blocks)[0])[0].detach()
    torch.testing.assert_close(first.log_scale.exp().detach(), mixed.std((0, 2, 3), unbiased=False), rtol=1e-4, atol=0.0)
    torch.testing.assert_close(z.detach(), chain.pull(x)[0].detach())
    assert all(p.requires_grad and p.grad_fn is None for p in chain.parameters())
