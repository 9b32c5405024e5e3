"""Bases are what scipy and torch.distributions say; their samples belong to rows and carry the right gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from pushforward.core.distribution import (
    BASES,
    Distribution,
    FullNormal,
    Logistic,
    Normal,
    NormalMixture,
    StudentT,
    Uniform,
)
from pushforward.core.random import Draws

WIDE = torch.float64


def base(name: str, shape: tuple[int, ...] = (3,), **options: Any) -> Distribution:
    """A base with random parameters, in float64."""
    torch.manual_seed(4)
    made = BASES[name](shape, **options).double()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.4 * torch.randn(p.shape, dtype=WIDE))
    return made


def truth(made: Distribution) -> torch.distributions.Distribution:
    """The same distribution over flat vectors in torch's terms."""
    td, size = torch.distributions, math.prod(made.shape)
    zero, one = torch.zeros(size, dtype=WIDE), torch.ones(size, dtype=WIDE)
    if isinstance(made, FullNormal):
        factor = torch.zeros(size, size, dtype=WIDE)
        for i in range(size):
            factor[i, :i] = made.lower[i, :i]
            factor[i, i] = made.log_diagonal[i].exp()
        return td.MultivariateNormal(made.mean, covariance_matrix=factor @ factor.T)
    if isinstance(made, NormalMixture):
        parts = td.Independent(td.Normal(made.mean, made.log_std.exp()), 1)
        return td.MixtureSameFamily(td.Categorical(logits=made.logits), parts)
    if isinstance(made, StudentT):
        return td.Independent(td.StudentT(0.5 + made.raw.flatten().exp()), 1)
    if isinstance(made, Uniform):
        return td.Independent(td.Uniform(made.lower * one, made.upper * one, validate_args=False), 1)
    if isinstance(made, Logistic):
        return td.TransformedDistribution(td.Uniform(zero, one), [td.SigmoidTransform().inv, td.AffineTransform(zero, one, 1)])
    return td.Independent(td.Normal(zero, one), 1)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)])
@torch.no_grad()
def test_densities_are_torchs(name: str, shape: tuple[int, ...]) -> None:
    made = base(name, shape)
    z = 0.3 * torch.randn(40, *shape, dtype=WIDE) if name == "uniform" else 3 * torch.randn(40, *shape, dtype=WIDE)
    z = z.clamp(-0.99, 0.99) if name == "uniform" else z
    torch.testing.assert_close(made.log_prob(z), truth(made).log_prob(z.flatten(1)), rtol=1e-9, atol=1e-9)
    single = made.float().log_prob(z.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), made.double().log_prob(z), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("degrees", [0.8, 1.0, 3.5, 60.0, 5000.0])
@torch.no_grad()
def test_student_t_is_scipys_from_heavy_tails_to_normal_ones(degrees: float) -> None:
    z = torch.tensor([0.0, 1e-6, -0.4, 3.0, -40.0, 1e4, 1e30], dtype=WIDE)[:, None]
    for learn in (True, False):
        made = StudentT((1,), degrees, learn=learn).double()
        assert len(list(made.parameters())) == learn
        wanted = torch.from_numpy(stats.t(degrees).logpdf(z[:, 0].numpy()))
        torch.testing.assert_close(made.log_prob(z), wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(made.float().log_prob(z.float()).double(), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", BASES)
@torch.no_grad()
def test_densities_integrate_to_one(name: str) -> None:
    made = base(name, (1,))
    edge = 1.0 if name == "uniform" else 30.0

    def density(v: float) -> float:
        return math.exp(float(made.log_prob(torch.tensor([[v]], dtype=WIDE))))

    mass = sum(integrate.quad(density, a, b, limit=200)[0] for a, b in ((-edge, 0), (0, edge)))
    if name == "student-t":
        mass += 2 * integrate.quad(density, edge, math.inf)[0]
    assert mass == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", BASES)
@torch.no_grad()
def test_samples_follow_the_density(name: str) -> None:
    made, n = base(name), 20_000
    z = made.sample(Draws(1, 0, n), dtype=WIDE)
    assert z.shape == (n, 3)
    cdf = {"normal": stats.norm.cdf, "logistic": stats.logistic.cdf, "uniform": stats.uniform(-1, 2).cdf}.get(name)
    for d, column in enumerate(z.unbind(1)):
        if name == "student-t":
            cdf = stats.t(float(made.degrees[d])).cdf
        elif name == "full-normal":
            marginal = truth(made).covariance_matrix[d, d].sqrt()
            cdf = stats.norm(float(made.mean[d]), float(marginal)).cdf
        elif name == "mixture":
            weight = made.logits.softmax(0).numpy()
            parts = list(zip(weight, made.mean[:, d].numpy(), made.log_std[:, d].exp().numpy(), strict=True))
            cdf = lambda v, parts=parts: sum(w * stats.norm.cdf(v, m, s) for w, m, s in parts)

        assert stats.kstest(column.numpy(), cdf).pvalue > 1e-3
    # how the coordinates hang together: the mean log density of its own samples is minus the entropy that torch's samples have
    own = made.log_prob(z)
    torch.manual_seed(0)
    other = truth(made).sample((n,))
    error = float(own.std() + made.log_prob(other.view(-1, 3)).std()) / n**0.5
    assert float(own.mean()) == pytest.approx(float(made.log_prob(other.view(-1, 3)).mean()), abs=4 * error + 1e-9)
    if name in ("full-normal", "mixture"):
        torch.testing.assert_close(torch.cov(z.T), torch.cov(other.T), rtol=0.1, atol=0.06)
        assert not made.independent
    else:
        assert float((torch.corrcoef(z.clamp(-9, 9).T) - torch.eye(3)).abs().max()) < 0.03
        assert made.independent


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("dtype", [WIDE, torch.float32])
@torch.no_grad()
def test_samples_belong_to_their_rows(name: str, dtype: torch.dtype) -> None:
    made = base(name, (2, 2)).to(dtype)
    whole = made.sample(Draws(3, 0, 150), dtype=dtype)
    assert whole.dtype == dtype
    assert whole.isfinite().all()
    parts = torch.cat([made.sample(Draws(3, a, b, 150), dtype=dtype) for a, b in ((0, 70), (70, 150))])
    torch.testing.assert_close(parts, whole)
    assert not torch.equal(made.sample(Draws(4, 0, 150), dtype=dtype), whole)


@pytest.mark.parametrize("name", BASES)
@torch.no_grad()
def test_temperature_scales_the_deviation_from_the_centre(name: str) -> None:
    made = base(name)
    at = {t: made.sample(Draws(2, 0, 50), dtype=WIDE, temperature=t) for t in (0.0, 0.5, 1.0)}
    torch.testing.assert_close(at[0.5] - at[0.0], 0.5 * (at[1.0] - at[0.0]))
    centres = {"full-normal": 1, "mixture": 8}.get(name, 1)
    assert len(at[0.0].unique(dim=0)) <= centres
    if name == "uniform":
        assert torch.equal(made.sample(Draws(2, 0, 50), dtype=WIDE, temperature=3.0), at[1.0])


@torch.no_grad()
def test_uniform_knows_its_edges() -> None:
    made = Uniform((2,), 0.0, 4.0)
    z = torch.tensor([[0.0, 4.0], [1.0, 2.0], [-1e-6, 1.0], [1.0, 4.001], [1e30, 0.0]])
    inside = -2 * math.log(4)
    torch.testing.assert_close(made.log_prob(z), torch.tensor([inside, inside, -math.inf, -math.inf, -math.inf]))
    with pytest.raises(ValueError, match="lower < upper"):
        Uniform((2,), 1.0, 1.0)
    with pytest.raises(ValueError, match="degrees of freedom"):
        StudentT((2,), 0.2)


@pytest.mark.parametrize("name", BASES)
def test_extremes_have_no_nan_and_gradients_are_finite(name: str) -> None:
    made = base(name, (2,)).float()
    z = torch.tensor([[1e4, -1e4], [0.0, 0.0], [-1e-30, 0.5]], requires_grad=True)
    score = made.log_prob(z)
    assert not score.isnan().any()
    if name != "uniform":
        assert score.isfinite().all()
        score.sum().backward()
        assert z.grad is not None
        assert z.grad.isfinite().all()
    for p in made.parameters():
        assert p.grad is not None
        assert p.grad.isfinite().all()
    if name != "uniform":
        assert not made.log_prob(torch.tensor([[1e30, -1e30]])).isnan().any()


# gradients of samples: of E f(z) with respect to the parameters, against the same by quadrature or in closed form


def moved(made: Distribution, f: Any, n: int, seed: int = 1) -> dict[str, Tensor]:
    """∂ E f(z) / ∂ parameters, estimated from n samples."""
    made.zero_grad()
    f(made.sample(Draws(seed, 0, n), dtype=WIDE)).mean().backward()
    return {name: p.grad.clone() for name, p in made.named_parameters()}


def test_degrees_of_freedom_learn_from_samples() -> None:
    made = base("student-t", (1,), degrees=4.0)

    def f(z: Tensor) -> Tensor:
        return z.square() / (1 + z.square())

    def mean(raw: float) -> float:
        t = stats.t(0.5 + math.exp(raw))
        return 2 * integrate.quad(lambda v: v * v / (1 + v * v) * t.pdf(v), 0, math.inf)[0]

    raw, h = float(made.raw.detach()), 1e-4
    wanted = (mean(raw + h) - mean(raw - h)) / (2 * h)
    assert float(moved(made, f, 40_000)["raw"]) == pytest.approx(wanted, rel=0.05)


def test_the_mean_and_factor_of_a_normal_learn_from_samples() -> None:
    made = base("full-normal")
    weight = torch.randn(3, 3, dtype=WIDE)
    found = moved(made, lambda z: torch.einsum("bi,ij,bj->b", z, weight, z), 200_000)
    # E zᵀ W z = tr W LLᵀ + mᵀ W m
    factor = made.lower.tril(-1) + made.log_diagonal.exp().diag()
    value = (weight @ factor @ factor.T).trace() + made.mean @ weight @ made.mean
    for (name, p), g in zip(made.named_parameters(), torch.autograd.grad(value, list(made.parameters())), strict=True):
        torch.testing.assert_close(found[name], g, rtol=0.05, atol=0.05)
        assert p.shape == g.shape


def test_the_weights_of_a_mixture_learn_from_samples() -> None:
    made = base("mixture", (2,), components=3)
    a = torch.randn(2, 2, dtype=WIDE)
    found = moved(made, lambda z: torch.einsum("bi,ij,bj->b", z, a, z) + z.sum(1), 100_000)
    weight, var = made.logits.softmax(0), (2 * made.log_std).exp()
    each = torch.einsum("ki,ij,kj->k", made.mean, a, made.mean) + (var * a.diag()).sum(1) + made.mean.sum(1)
    names = [name for name, _ in made.named_parameters()]
    for name, g in zip(names, torch.autograd.grad(weight @ each, list(made.parameters())), strict=True):
        torch.testing.assert_close(found[name], g, rtol=0.05, atol=0.03)
    # one sample's gradient is that of the quantile function where there is one coordinate
    line = base("mixture", (1,), components=3)
    z = line.sample(Draws(5, 0, 1), dtype=WIDE)
    z.sum().backward()
    u = (line.logits.softmax(0) * torch.special.ndtr((z.detach() - line.mean[:, 0]) / line.log_std[:, 0].exp())).sum()
    slope = line.log_prob(z.detach()).exp()
    for p, g in zip(line.parameters(), torch.autograd.grad(u, list(line.parameters())), strict=True):
        torch.testing.assert_close(p.grad, -g / slope.detach(), rtol=1e-9, atol=1e-12)


def test_builders_take_a_shape() -> None:
    assert set(BASES) == {"normal", "logistic", "uniform", "student-t", "full-normal", "mixture"}
    assert isinstance(BASES["normal"]((2,)), Normal)
