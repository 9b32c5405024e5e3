"""Linear maps against what they are by definition: products of factors, one reflection after the other, the Jacobian."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pushforward.core.transform import Transform
from pushforward.transforms.linear import LU, Householder, Permute, rotation

WIDE = torch.float64


def random(module: nn.Module, std: float = 0.5) -> nn.Module:
    """Random parameters, whatever the module started with."""
    generator = torch.Generator().manual_seed(4)
    for p in module.parameters():
        nn.init.normal_(p, std=std, generator=generator)
    return module


MAPS: dict[str, Callable[[int], Transform]] = {
    "permute": lambda size: Permute.random(size),
    "lu": lambda size: random(LU(size)),
    "lu from the identity": lambda size: random(LU(size, start="identity")),
    "householder": lambda size: random(Householder(size)),
    "few reflections": lambda size: random(Householder(size, 2)),
    "one reflection": lambda size: random(Householder(size, 1)),
}
every = pytest.mark.parametrize("name", MAPS)


def matrix_of(transform: Transform, size: int) -> Tensor:
    """W, read off its columns."""
    return transform.pull(torch.eye(size, dtype=WIDE))[0].detach().T


@every
@pytest.mark.parametrize("shape", [(5,), (5, 2, 3)], ids=["vectors", "pictures"])
@pytest.mark.parametrize("rows", [1, 9])
def test_v_is_the_log_determinant_of_the_jacobian(name: str, shape: tuple[int, ...], rows: int) -> None:
    torch.manual_seed(3)
    transform = MAPS[name](5).double()
    x = torch.randn(rows, *shape, dtype=WIDE)
    z, score = transform.pull(x)
    for i in range(rows):
        jacobian = torch.autograd.functional.jacobian(lambda v: transform.pull(v[None])[0][0], x[i])
        truth = torch.linalg.slogdet(jacobian.reshape(x[i].numel(), -1)).logabsdet
        assert float(score[i].detach()) == pytest.approx(float(truth), abs=1e-9)
    x_again, score_again = transform.push_scored(z)
    torch.testing.assert_close(x_again, x, atol=1e-9, rtol=0.0)
    torch.testing.assert_close(score_again, score, atol=1e-9, rtol=0.0)
    assert score.shape == (rows,)
    if "lu" in name:
        assert float(score.detach().abs().min()) > 0.05


@every
def test_pictures_get_the_same_map_at_each_pixel(name: str) -> None:
    torch.manual_seed(1)
    transform = MAPS[name](6).double()
    x = torch.randn(4, 6, 3, 2, dtype=WIDE)
    z, score = transform.pull(x)
    pixels, each = transform.pull(x.permute(0, 2, 3, 1).reshape(-1, 6))
    torch.testing.assert_close(z.permute(0, 2, 3, 1).reshape(-1, 6), pixels)
    torch.testing.assert_close(score, each.view(4, 6).sum(1))


@every
@pytest.mark.parametrize("dtype", [WIDE, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e30])
@pytest.mark.parametrize("shape", [(16,), (16, 3, 3)], ids=["vectors", "pictures"])
@pytest.mark.parametrize("rows", [1, 40])
def test_push_and_pull_undo_one_another(name: str, dtype: torch.dtype, size: float, shape: tuple[int, ...], rows: int) -> None:
    torch.manual_seed(2)
    transform = random(MAPS[name](16), 0.2).to(dtype)
    tolerance = size * (1e-9 if dtype == WIDE else 1e-4)
    x = size * torch.randn(rows, *shape, dtype=dtype)
    z, score = transform.pull(x)
    assert z.dtype == score.dtype == dtype
    assert float((transform.push(z) - x).detach().abs().max()) < tolerance
    assert float((transform.pull(transform.push(x))[0] - x).detach().abs().max()) < tolerance


@pytest.mark.parametrize("start", ["identity", "rotation"])
def test_lu_is_the_product_of_its_factors(start: str) -> None:
    torch.manual_seed(5)
    transform = LU(7, start=start).double()
    begins = matrix_of(transform, 7)
    truth = torch.eye(7, dtype=WIDE)
    torch.testing.assert_close(begins @ begins.T, truth, atol=1e-6, rtol=0.0)
    assert torch.allclose(begins, truth, atol=1e-6) == (start == "identity")
    signs = transform.sign.clone()
    random(transform)
    f = transform.factors.detach()
    lower = torch.tril(f, -1) + truth
    upper = torch.triu(f, 1) + torch.diag(signs * torch.exp(torch.diagonal(f)))
    torch.testing.assert_close(matrix_of(transform, 7), (lower @ upper)[transform.order])
    few, many = torch.randn(3, 7, dtype=WIDE), torch.randn(30, 7, dtype=WIDE)
    for x in (few, many):  # applied factor by factor, or multiplied out
        torch.testing.assert_close(transform.pull(x)[0], x @ (lower @ upper)[transform.order].T)
        torch.testing.assert_close(transform.push(x), torch.linalg.solve((lower @ upper)[transform.order], x.T).T)
    one = torch.randn(1, 7, 2, 1, dtype=WIDE)
    torch.testing.assert_close(transform.push(one)[0, :, 1, 0], transform.push(one[:, :, 1, 0])[0])


def test_rotations_are_orthogonal_and_turn_any_way() -> None:
    torch.manual_seed(0)
    drawn = [rotation(3) for _ in range(400)]
    for q in drawn:
        torch.testing.assert_close(q @ q.T, torch.eye(3, dtype=WIDE))
    # uniform over directions: each entry has mean 0 and variance 1/D, and mirrors come as often as turns
    entries = torch.stack(drawn)
    assert float(entries.mean(0).abs().max()) < 0.1
    torch.testing.assert_close(entries.square().mean(0), torch.full((3, 3), 1 / 3, dtype=WIDE), atol=0.07, rtol=0.0)
    assert 150 < sum(float(torch.linalg.det(q)) > 0 for q in drawn) < 250


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_reflections_are_taken_one_after_the_other(count: int) -> None:
    transform = random(Householder(5, count)).double()
    truth = torch.eye(5, dtype=WIDE)
    for v in transform.vectors.detach():
        truth = truth @ (torch.eye(5, dtype=WIDE) - 2 * torch.outer(v, v) / v.dot(v))
    torch.testing.assert_close(matrix_of(transform, 5), truth)
    torch.testing.assert_close(transform.push(torch.eye(5, dtype=WIDE)), truth)


def test_reflections_start_as_the_identity_when_asked() -> None:
    transform = Householder(6, 4, start="identity").double()
    torch.testing.assert_close(matrix_of(transform, 6), torch.eye(6, dtype=WIDE), atol=1e-7, rtol=0.0)
    random(transform)
    assert not torch.allclose(matrix_of(transform, 6), torch.eye(6, dtype=WIDE), atol=0.1)


def test_permutation_moves_what_its_order_says() -> None:
    x = torch.arange(8.0).view(2, 4)
    transform = Permute(torch.tensor([2, 0, 3, 1]))
    assert transform.pull(x)[0][0].tolist() == [2.0, 0.0, 3.0, 1.0]
    assert torch.equal(transform.push(transform.pull(x)[0]), x)
    assert torch.equal(transform.spread(x > 2), transform.pull(x)[0] > 2)
    assert Permute.reversed(4).pull(x)[0][0].tolist() == [3.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize("name", ["lu", "householder", "few reflections"])
def test_mixed_precision_does_not_reach_the_maps(name: str) -> None:
    torch.manual_seed(2)
    transform = MAPS[name](16)
    x = torch.randn(30, 16, 4, 4)
    plain, score = transform.pull(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, mixed_score = transform.pull(x)
        back = transform.push(mixed)
    assert torch.equal(mixed, plain)
    assert torch.equal(mixed_score, score)
    torch.testing.assert_close(back, transform.push(plain), atol=0.0, rtol=0.0)


@pytest.mark.parametrize("name", [n for n in MAPS if n != "permute"])
def test_every_parameter_learns(name: str) -> None:
    transform = MAPS[name](4).double()
    z, score = transform.pull(torch.randn(5, 4, 2, 2, dtype=WIDE))
    (z.pow(4).sum() - score.sum()).backward()
    for p in transform.parameters():
        assert p.grad is not None
        assert (p.grad.abs() > 1e-9).all()


def test_the_fixed_order_is_part_of_the_state() -> None:
    torch.manual_seed(0)
    for make in (lambda: LU(6), lambda: Permute.random(6)):
        one, other = make(), make()
        other.load_state_dict(one.state_dict())
        x = torch.randn(4, 6)
        assert torch.equal(one.pull(x)[0], other.pull(x)[0])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="each of 0"):
        Permute(torch.tensor([0, 0, 1]))
    with pytest.raises(ValueError, match="start is one of"):
        LU(3, start="zero")
    with pytest.raises(ValueError, match="even number"):
        Householder(3, start="identity")
    with pytest.raises(ValueError, match="one at least"):
        Householder(3, 0)
