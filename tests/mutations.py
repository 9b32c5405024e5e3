"""Deliberate faults, one at a time, each of which the suite must notice: python tests/mutations.py

The package is copied to a temporary folder, one snippet of it is replaced, and the tests that should notice run against the
copy. Exits with 1 where a fault survives, or where the tests fail without any.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "src" / "pushforward"
_CORE, _BIJECTIONS, _TABULAR = (
    "core/test_core_transform.py",
    "transforms/test_transforms_bijections.py",
    "transforms/test_transforms_tabular.py",
)
_SAMPLERS = "solvers/test_samplers.py"
_SOLVERS, _TWO = "solvers/test_solvers.py", "contract/test_two_processes.py"
_VAE, _MADE, _MIXTURE = "models/test_models_vae.py", "models/test_models_made.py", "models/test_models_mixture.py"
_DIFFUSION, _OTHERS, _ELEMENTS = (
    "models/test_models_diffusion.py",
    "models/test_models_others.py",
    "models/test_models_elements.py",
)


@dataclass(frozen=True)
class Fault:
    """``old`` in ``file`` becomes ``new``; the tests ``selection`` (files under tests, or files::tests) must fail."""

    name: str
    file: str
    old: str
    new: str
    selection: str


_PEERS = "transforms/test_transforms_peers.py"

FAULTS = (
    Fault(
        "log-determinant doubled",
        "transforms/univariate.py",
        "return x * self.log_scale.exp(), self.log_scale.sum().expand(len(x))",
        "return x * self.log_scale.exp(), 2 * self.log_scale.sum().expand(len(x))",
        _BIJECTIONS,
    ),
    Fault(
        "log-determinant of a spline doubled in both directions",
        "transforms/spline.py",
        "2 * (delta / down).log() + up.log()",
        "4 * (delta / down).log() + 2 * up.log()",
        _BIJECTIONS,
    ),
    Fault(
        "affine couplings that only shift",
        "transforms/monotone.py",
        "return value / (1 + value.abs() / bound)",
        "return 0 * value / (1 + value.abs() / bound)",
        _BIJECTIONS,
    ),
    Fault(
        "another bound of the scale than the field's",
        "transforms/monotone.py",
        "self.bound = -math.log(slope)",
        "self.bound = -2 * math.log(slope)",
        _PEERS,
    ),
    Fault(
        "slopes of a spline at its ends not one",
        "transforms/spline.py",
        "self.offset = math.log(math.expm1(1 - floor))",
        "self.offset = math.log(math.expm1(1.0))",
        _PEERS,
    ),
    Fault(
        "gradients through units at rest",
        "kernels/stack.py",
        "found[i] = value if entered[i] > F(0.0) else F(0.0)",
        "found[i] = value",
        "nets/test_linear.py",
    ),
    Fault(
        "second derivatives that take the units for constants",
        "nets/linear.py",
        "if again or ctx.values is None else ctx.values",
        "if ctx.values is None else ctx.values",
        "nets/test_linear.py",
    ),
    Fault(
        "gradients of the second thread's rows lost",
        "kernels/stack.py",
        "sums[0] if parts == 1 else sums.sum(0)",
        "sums[0]",
        "kernels/test_kernels_stack.py",
    ),
    Fault(
        "the last input that a masked unit sees passed over",
        "kernels/stack.py",
        "(at[0], at[-1] + 1) if at else",
        "(at[0], max(at[-1], 1)) if at else",
        "kernels/test_kernels_stack.py",
    ),
    Fault(
        "gradient of an inverse with the wrong sign",
        "transforms/rootfinding.py",
        "return x - (error - error.detach())",
        "return x + (error - error.detach())",
        "transforms/test_transforms_rootfinding.py",
    ),
    Fault(
        "sum of squares that starts anywhere",
        "transforms/polynomial.py",
        "(1 - s) * (1 + s) * q.square()",
        "q.square()",
        "transforms/test_transforms_polynomial.py",
    ),
    Fault(
        "two slopes where a circle closes",
        "transforms/circular.py",
        "torch.cat([raw, raw[:, :1]], 1)",
        "torch.cat([raw, raw[:, -1:]], 1)",
        "transforms/test_transforms_circular.py",
    ),
    Fault(
        "sign of a bound's V",
        "transforms/support.py",
        "score[..., at] = _softplus(-t)",
        "score[..., at] = _softplus(t)",
        "transforms/test_transforms_support.py",
    ),
    Fault(
        "implicit gradients of noise with the wrong sign",
        "core/distribution.py",
        "return -torch.linalg.solve_triangular(jacobian",
        "return torch.linalg.solve_triangular(jacobian",
        "core/test_core_distribution.py",
    ),
    Fault(
        "a Langevin chain that forgets its proposal",
        "solvers/langevin.py",
        "log_ratio = beta * (new_score - score) + odds",
        "log_ratio = beta * (new_score - score)",
        "solvers/test_langevin.py",
    ),
    Fault(
        "V of a 1×1 convolution counted for one pixel",
        "transforms/linear.py",
        "return (places * self.factors.diagonal().sum())",
        "return (self.factors.diagonal().sum())",
        "transforms/test_transforms_linear.py",
    ),
    Fault(
        "variational noise that adds its own density",
        "transforms/quantise.py",
        "_log_slope(v) - _log_slope(epsilon) - score",
        "_log_slope(v) - _log_slope(epsilon) + score",
        "transforms/test_transforms_noise.py",
    ),
    Fault(
        "bits per dimension shifted the other way",
        "metrics/likelihood.py",
        "else 8 - math.log2(levels)",
        "else math.log2(levels) - 8",
        "metrics/test_likelihood.py",
    ),
    Fault(
        "V of an ODE's samples with the wrong sign",
        "transforms/ode.py",
        "return x, -integrals[:, 0]",
        "return x, integrals[:, 0]",
        "transforms/test_transforms_ode.py",
    ),
    Fault(
        "a field's closed-form trace doubled",
        "nets/field.py",
        "kernel = maps[1] * (maps[0][:-1].T @ maps[2].T)",
        "kernel = 2 * maps[1] * (maps[0][:-1].T @ maps[2].T)",
        "nets/test_field.py",
    ),
    Fault(
        "an adjoint that runs the wrong way",
        "solvers/adjoint.py",
        "return value, -by_y,",
        "return value, by_y,",
        "solvers/test_solvers_gradients.py",
    ),
    Fault(
        "the wrong half steers",
        "transforms/coupling.py",
        "b, a = x.split(sizes[::-1], 1)",
        "a, b = x.split(sizes, 1)",
        _BIJECTIONS,
    ),
    Fault(
        "a spline's gradient without the knots to the left",
        "kernels/spline.py",
        "s[SHARE * L + i] = share + own if here else share",
        "s[SHARE * L + i] = share",
        "kernels/test_kernels_spline.py",
    ),
    Fault(
        "an affine gradient deaf to V",
        "kernels/affine.py",
        "(scaled * s[X * L + i] + s[V * L + i]) * share * share",
        "(scaled * s[X * L + i]) * share * share",
        "kernels/test_kernels_affine.py",
    ),
    Fault(
        "units found too late when an autoregressive layer is undone",
        "kernels/autoregressive.py",
        "old = upto[l, k - _1] if k > _0 else _0",
        "old = upto[l, k]",
        "kernels/test_kernels_autoregressive.py",
    ),
    Fault(
        "sign of V flipped",
        "transforms/univariate.py",
        "return z, -self.std.log().sum().expand(len(x))",
        "return z, self.std.log().sum().expand(len(x))",
        _BIJECTIONS,
    ),
    Fault(
        "sign of an inverse's V lost",
        "core/transform.py",
        "z, score = self.transform.push_scored(x, context)\n        return z, -score",
        "z, score = self.transform.push_scored(x, context)\n        return z, score",
        _CORE,
    ),
    Fault(
        "log w_k dropped",
        "transforms/tabular.py",
        "score = (width.log() - _log_normal(z)).sum(1)",
        "score = (-_log_normal(z)).sum(1)",
        _TABULAR,
    ),
    Fault(
        "V of a filled gap dropped",
        "transforms/tabular.py",
        "torch.where(gap, -_log_normal(drawn), score)",
        "torch.where(gap, torch.zeros_like(drawn), score)",
        _TABULAR,
    ),
    Fault(
        "dequantisation scored by its step",
        "transforms/quantise.py",
        "return x + self.resolution * (u - 0.5), score",
        "return x + self.resolution * (u - 0.5), score + self.resolution.clamp(min=1e-9).log().sum()",
        _BIJECTIONS,
    ),
    Fault(
        "width of a level's band doubled in V",
        "transforms/quantise.py",
        "z, slope = self._of(self.low, codes) + wide * u, wide.log()",
        "z, slope = self._of(self.low, codes) + wide * u, (2 * wide).log()",
        "transforms/test_transforms_levels.py",
    ),
    Fault(
        "derivative of a schedule scaled",
        "paths/schedule.py",
        "return 0.5 * self._beta(t) * (-self._integral(t)).exp() / self.sigma(t)",
        "return self._beta(t) * (-self._integral(t)).exp() / self.sigma(t)",
        "paths/test_schedule.py",
    ),
    Fault(
        "trace halved",
        "solvers/divergence.py",
        "trace = trace + found.flatten(2)[place, :, index].sum(0)",
        "trace = trace + 0.5 * found.flatten(2)[place, :, index].sum(0)",
        "solvers/test_divergence.py",
    ),
    Fault(
        "a tableau's node wrong", "solvers/tableau.py", "(44 / 45, -56 / 15, 32 / 9)", "(44 / 45, -55 / 15, 32 / 9)", _SOLVERS
    ),
    Fault(
        "base without ½ log 2π",
        "core/distribution.py",
        "per_example(-0.5 * z.square() - 0.5 * math.log(2 * math.pi))",
        "per_example(-0.5 * z.square())",
        _CORE,
    ),
    Fault(
        "density of an ODE minus its divergence",
        "models/diffusion.py",
        "+ volume + score",
        "- volume + score",
        _DIFFUSION,
    ),
    Fault(
        "divergence of a modulated net without its scale",
        "nets/modulated.py",
        "moved = torch.addcmul(sigma, a, 1 - sigma) * g * through",
        "moved = torch.addcmul(sigma, a, 1 - sigma) * through",
        "nets/test_modulated.py",
    ),
    Fault(
        "divergence of the kernel without the skip's share",
        "kernels/modulated.py",
        "trace[r] = ends[0] * F(d) + ends[1] * found_trace",
        "trace[r] = ends[0] + ends[1] * found_trace",
        "kernels/test_kernels_modulated.py",
    ),
    Fault(
        "rows at the times of their neighbours",
        "solvers/dyadic.py",
        "return [Shared(time, of, tuple(parts))",
        "return [Shared(time, of.flip(0), tuple(parts))",
        "solvers/test_dyadic.py",
    ),
    Fault(
        "covariance of what is measured without the share of the data",
        "guidance/completion.py",
        "spread = sigma**2 / alpha\n",
        "spread = sigma**2\n",
        "guidance/test_guidance.py",
    ),
    Fault(
        "particles weighed twice as sharply",
        "guidance/completion.py",
        "logits = logits - 0.5 * torch.where",
        "logits = logits - 1.0 * torch.where",
        "models/test_models_diffusion.py::test_particles_choose_between_modes_as_the_conditional_does",
    ),
    Fault(
        "paths from noise where there is a source",
        "models/path.py",
        "return self.preprocess.pull(self.source(draws), None, draws)[0].to(self.dtype)",
        "return draws.normal(*self.shape, dtype=self.dtype)",
        "models/test_models_transport.py",
    ),
    Fault(
        "a consistency function compared with itself",
        "models/consistency.py",
        "x_s = x - over((t - s).to(y.dtype), y) * (ahead - start)",
        "s, x_s = t, x",
        "models/test_models_straighten.py",
    ),
    Fault(
        "guidance between the wrong ends",
        "guidance/classifier_free.py",
        "torch.lerp(worse, better, scale)",
        "torch.lerp(better, worse, scale)",
        "guidance/test_guidance.py",
    ),
    Fault(
        "v and the noise swapped",
        "paths/prediction.py",
        """    "noise": _noise,""",
        """    "noise": _v,""",
        "paths/test_prediction.py",
    ),
    Fault(
        "v with the sign of EDM's output",
        "paths/prediction.py",
        "return -sigma / s, alpha / s",
        "return sigma / s, -alpha / s",
        "paths/test_prediction.py",
    ),
    Fault(
        "time of a table off by one index",
        "paths/table.py",
        "cell = place.detach().ceil().clamp(1, self.steps).long() - 1",
        "cell = place.detach().ceil().clamp(1, self.steps - 1).long()",
        "paths/test_schedule.py",
    ),
    Fault(
        "timesteps of a grid off by one index",
        "solvers/grids.py",
        "at = (np.arange(steps) * (table // steps) + 1)[::-1] / table",
        "at = (np.arange(steps) * (table // steps) + 2)[::-1] / table",
        "solvers/test_samplers_peers.py",
    ),
    Fault(
        "likelihood weighting with the wrong sign",
        "paths/weighting.py",
        "return schedule.delta(t) * alpha / (sigma * (alpha.square() + sigma.square()))",
        "return -schedule.delta(t) * alpha / (sigma * (alpha.square() + sigma.square()))",
        "paths/test_prediction.py",
    ),
    Fault(
        "the velocity's turn with the wrong sign",
        "paths/denoiser.py",
        "turn = d_sigma * cos - d_alpha * sin",
        "turn = d_alpha * sin - d_sigma * cos",
        _DIFFUSION,
    ),
    Fault(
        "the wrong time of equal signal to noise",
        "paths/denoiser.py",
        "schedule.time(2 * (cos.log() - sin.log()))",
        "schedule.time(cos.log() - sin.log())",
        _DIFFUSION,
    ),
    Fault(
        "the second-order term of a multistep sampler halved",
        "solvers/multistep.py",
        "rows.append((keep, add, 0.5 * add * ratio",
        "rows.append((keep, add, 0.25 * add * ratio",
        _SAMPLERS,
    ),
    Fault(
        "the corrector of UniPC forgotten",
        "solvers/multistep.py",
        "if i and math.isfinite(lam[i] - lam[i - 1]):",
        "if i < 0 and math.isfinite(lam[i] - lam[i - 1]):",
        _SAMPLERS,
    ),
    Fault(
        "noise of the reverse-time equation halved",
        "solvers/sde.py",
        "math.sqrt(-step * 2 * sigma * delta / alpha)",
        "math.sqrt(-step * sigma * delta / alpha)",
        _SAMPLERS,
    ),
    Fault(
        "the variances of ancestral sampling swapped",
        "solvers/sde.py",
        "0.5 * (spread * math.log(most) + (1 - spread) * math.log(least))",
        "0.5 * (spread * math.log(least) + (1 - spread) * math.log(most))",
        "solvers/test_samplers_peers.py",
    ),
    Fault(
        "the bound without its last term",
        "paths/posterior.py",
        "return per_example(torch.where(clean, -likelihood, divergence))",
        "return per_example(torch.where(clean, 0 * likelihood, divergence))",
        _DIFFUSION,
    ),
    Fault(
        "noise coupled across conditions",
        "paths/coupling.py",
        "cost = cost + _APART * cost.max() * different",
        "cost = cost + 0 * cost.max() * different",
        "paths/test_coupling.py",
    ),
    Fault(
        "what was measured pushed away from",
        "guidance/completion.py",
        "_solve(apply, measured - measure(guess), iterations)",
        "_solve(apply, measure(guess) - measured, iterations)",
        "guidance/test_guidance.py",
    ),
    Fault(
        "the time between two choices of order hidden",
        "models/masked.py",
        "torch.where(apart, torch.minimum(first, second), first)",
        "torch.minimum(first, second)",
        "models/test_models_masked.py",
    ),
    Fault(
        "reverse steps of a masked path too short",
        "paths/discrete.py",
        "stay = over(self.keep.gone(s) / self.keep.gone(t), p)",
        "stay = over(self.keep.gone(s), p)",
        "paths/test_discrete.py",
    ),
    Fault(
        "the uniform path's weights without what was drawn",
        "models/uniform.py",
        "gain = (model - true).gather",
        "gain = model.gather",
        "models/test_models_masked.py",
    ),
    Fault(
        "attention that forgets its second derivative",
        "nets/attention.py",
        "again = torch.is_grad_enabled()",
        "again = False",
        "nets/test_dit.py",
    ),
    Fault(
        "sign in the KL term",
        "models/bound.py",
        "(2 * log_std).exp() - 1) - log_std",
        "(2 * log_std).exp() - 1) + log_std",
        _VAE,
    ),
    Fault(
        "importance weight without its prior",
        "models/bound.py",
        "per_example(0.5 * (noise.square() - z.square()) + log_std)",
        "per_example(0.5 * noise.square() + log_std)",
        _VAE,
    ),
    Fault(
        "mask off by one",
        "nets/masked.py",
        "masks.append(self.out_degrees[:, None] > order[-1])",
        "masks.append(self.out_degrees[:, None] >= order[-1])",
        _MADE,
    ),
    Fault(
        "completion deaf to what is held",
        "models/autoregressive.py",
        "race = torch.where(known, nats.double(), 0.0).sum(1) + gumbel(",
        "race = 0 * torch.where(known, nats.double(), 0.0).sum(1) + gumbel(",
        _MADE,
    ),
    Fault(
        "NADE sees the element itself",
        "nets/belief.py",
        "before = torch.cat([sums[:, None], running[:, :-1]], 1).sigmoid()",
        "before = running.sigmoid()",
        "nets/test_belief.py",
    ),
    Fault(
        "draws of a bound compared with others' elements",
        "kernels/bernoulli.py",
        "e[r // repeats], at,",
        "e[r % U(e.shape[0])], at,",
        "kernels/test_kernels_bernoulli.py",
    ),
    Fault(
        "the gradient of Bernoullis without what logits start from",
        "kernels/bernoulli.py",
        "sigmoid(wide(row[j]) + d[j])",
        "sigmoid(wide(row[j]))",
        "kernels/test_kernels_bernoulli.py",
    ),
    Fault(
        "small shares of a row left out of covariances",
        "models/gaussians.py",
        "_NOTHING = 1e-25",
        "_NOTHING = 1e-2",
        "models/test_models_mixture.py",
    ),
    Fault(
        "NADE's kernel forgets what it took away",
        "kernels/nade.py",
        "_add(a, r, w, at, -value)",
        "_add(a, r, w, at, value)",
        "kernels/test_kernels_nade.py",
    ),
    Fault(
        "orders that are not averaged",
        "models/orders.py",
        "return torch.stack(each).logsumexp(0) - math.log(self.mixture)",
        "return torch.stack(each).logsumexp(0)",
        "nets/test_orders.py",
    ),
    Fault(
        "pixels judged each by its own spread",
        "fitting/validation.py",
        "std = (square if isinstance(model.schema.example, (Table, Vector)) else square.mean())",
        "std = square",
        "fitting/test_validation.py",
    ),
    Fault(
        "validations that never look at fewer rows",
        "fitting/trainer.py",
        "return int(min(max(rows, _FEWEST), VALIDATE))",
        "return VALIDATE",
        "fitting/test_trainer.py",
    ),
    Fault(
        "a kernel that keeps one symbol too many",
        "kernels/causal.py",
        "least = symbols - top_k if",
        "least = symbols - top_k - _one if",
        "kernels/test_kernels_causal.py",
    ),
    Fault(
        "a text whose window moves on without its end",
        "fitting/continuing.py",
        "done[i][len(done[i]) - kept :]",
        "done[i][:kept]",
        "cli/test_prompt.py",
    ),
    Fault(
        "links that see their own element",
        "nets/masked.py",
        "MaskedLinear(self.out_degrees[:, None] > d, bias=False)",
        "MaskedLinear(self.out_degrees[:, None] >= d, bias=False)",
        "nets/test_masked.py",
    ),
    Fault(
        "a kernel that forgets the links from the first layer",
        "kernels/autoregressive.py",
        "for l in range(U(skips.shape[0])):",
        "for l in range(_1, U(skips.shape[0])):",
        "kernels/test_kernels_autoregressive.py",
    ),
    Fault(
        "an ensemble whose rows are dealt anew in every process",
        "nets/orders.py",
        "draws.total * k // self.members",
        "draws.stop * k // self.members",
        "nets/test_orders.py",
    ),
    Fault(
        "numbers before the word whether there is one",
        "nets/orders.py",
        "if here < there:",
        "if here > there:",
        "nets/test_orders.py",
    ),
    Fault(
        "the likeliest levels without the one that reaches the mass",
        "models/blocks.py",
        "beyond = mass.cumsum(-1) - mass >= self.top_p",
        "beyond = mass.cumsum(-1) >= self.top_p",
        _ELEMENTS,
    ),
    Fault(
        "a uniform number that is not made whole again",
        "models/blocks.py",
        "u = (u - above.gather(-1, chosen)[..., 0] + share) / share",
        "u = (u - above.gather(-1, chosen)[..., 0] + share)",
        _ELEMENTS,
    ),
    Fault(
        "training bits that stay the same",
        "data/binarised.py",
        "bits = draws.uniform(*chances.shape[1:]) * 255 < chances",
        "bits = draws.uniform(*chances.shape[1:]) * 256 < 128",
        "data/test_binarised.py",
    ),
    Fault(
        "second moments of the last block only",
        "models/gaussians.py",
        "wide.addmm_(block.T, (r[:, :, None] * block[:, None]).flatten(1))",
        "wide = block.T @ (r[:, :, None] * block[:, None]).flatten(1)",
        "models/test_models_mixture.py",
    ),
    Fault(
        "gaps filled without their spread",
        "models/gaussians.py",
        "second[:, m[:, None], m] += count[:, None, None] * spread",
        "second[:, m[:, None], m] += 0 * count[:, None, None] * spread",
        "models/test_models_mixture.py",
    ),
    Fault(
        "responsibilities that do not sum to one",
        "models/mixture.py",
        "share = seen.weigh(log_joint.softmax(1))",
        "share = seen.weigh(log_joint.exp())",
        "models/test_models_mixture.py",
    ),
    Fault(
        "a mixture completed by its prior weights",
        "models/mixture.py",
        "share = self._log_joint(self.densities.see(y, known)).softmax(1).cumsum(1)",
        "share = self.weights.expand(len(y), -1).cumsum(1)",
        "models/test_models_mixture.py",
    ),
    Fault(
        "second moments of the kernel unweighed",
        "kernels/gaussians.py",
        "weighed[d, i] = rows[d, i] * weighed[wide, i]",
        "weighed[d, i] = rows[d, i]",
        "kernels/test_kernels_gaussians.py",
    ),
    Fault(
        "pairs of states without their transitions",
        "models/hmm.py",
        '"pairs": a * ((f / whole).T @ g),',
        '"pairs": (f / whole).T @ g,',
        "models/test_models_hmm.py",
    ),
    Fault(
        "states drawn backwards without what follows",
        "models/hmm.py",
        "state.append(_choose((alpha[:, t] + a.log().T[state[-1]]).softmax(1), uniform[:, t]))",
        "state.append(_choose(alpha[:, t].softmax(1), uniform[:, t]))",
        "models/test_models_hmm.py",
    ),
    Fault(
        "variational densities without the doubt in the mean",
        "models/bayes.py",
        "return 0.5 * (expected - plain) - 0.5 * self.size / self.beta",
        "return 0.5 * (expected - plain)",
        "models/test_models_mixture_bayes.py",
    ),
    Fault(
        "a likelihood that may fall",
        "models/em.py",
        "if not objective >= self._before[0] - allowed:",
        "if not objective >= self._before[0] - 1e9:",
        "models/test_models_mixture_em.py",
    ),
    Fault(
        "conditional covariance within components only",
        "models/conditional.py",
        'return within + torch.einsum("bk,bki,bkj->bij", self.weights, apart, apart)',
        "return within",
        "models/test_models_mixture_conditional.py",
    ),
    Fault(
        "levels without their smoothing",
        "models/densities.py",
        'counts = (sums["levels"] + self.smoothing) * self.live',
        'counts = sums["levels"] * self.live',
        "models/test_models_mixture_product.py",
    ),
    Fault(
        "a pairing of scores the wrong way round",
        "models/adversarial_losses.py",
        "    return softplus(fake - real)",
        "    return softplus(real - fake)",
        "models/test_models_gan.py",
    ),
    Fault(
        "critic of any slope but zero punished",
        "models/adversarial_losses.py",
        "tiny).sqrt() - 1).square()",
        "tiny).sqrt()).square()",
        "models/test_models_gan.py",
    ),
    Fault(
        "singular values without their own slope",
        "nets/spectral.py",
        "return weight / (u @ (matrix @ v))",
        "return weight / (u @ (matrix.detach() @ v))",
        "nets/test_spectral.py",
    ),
    Fault(
        "one logarithm of a Gumbel number",
        "algorithms/estimators.py",
        "return -(-uniform.clamp(tiny, 1 - torch.finfo(uniform.dtype).eps / 2).log()).log()",
        "return -uniform.clamp(tiny, 1 - torch.finfo(uniform.dtype).eps / 2).log()",
        "models/test_models_gan_tables.py",
    ),
    Fault(
        "jackknife of the wrong size",
        "metrics/frechet.py",
        "(blocks - 1) / blocks * float",
        "1 / blocks * float",
        "metrics/test_frechet.py",
    ),
    Fault(
        "a tree's edges counted without their shared ends",
        "metrics/friedman_rafsky.py",
        "(rows * (rows - 1) - 4 * n * m + 2)",
        "(rows * (rows - 1) - 4 * n * m)",
        "metrics/test_friedman_rafsky.py",
    ),
    Fault(
        "potentials without what was taken out",
        "algorithms/entropic_transport.py",
        "return -(top + sums.log()).mT",
        "return -sums.log().mT",
        "algorithms/test_entropic_transport.py",
    ),
    Fault(
        "ranks that reach zero and one",
        "metrics/calibration.py",
        "(upto - below + 1)) / (len(drawn) + 1)",
        "(upto - below)) / len(drawn)",
        "metrics/test_calibration.py",
    ),
    Fault(
        "a PixelCNN that sees to the right",
        "nets/pixel.py",
        "self.down(F.pad(v, (r, r, r, end)))",
        "self.down(F.pad(v, (r, r, r + end, 0)))",
        "nets/test_pixel.py",
    ),
    Fault(
        "a channel that sees itself",
        "nets/pixel.py",
        "repeat_interleave(hidden)[:, None] > channel",
        "repeat_interleave(hidden)[:, None] >= channel",
        "nets/test_pixel.py",
    ),
    Fault(
        "tanh of the wrong slope",
        "kernels/pixel.py",
        "exp(F(-2.0) *",
        "exp(F(-1.9) *",
        "nets/test_pixel.py",
    ),
    Fault(
        "free bits of rows, not of the batch",
        "models/bound.py",
        "torch.where(all_rows(rates.detach()).mean(0) > free, rates, free)",
        "torch.where(rates > free, rates, free)",
        "models/test_models_vae.py",
    ),
    Fault(
        "doubly reparameterised for another beta",
        "models/vae.py",
        "g * (1 - beta * (1 - share))",
        "g * share",
        "models/test_models_vae.py",
    ),
    Fault(
        "a mixture prior that is a sum",
        "models/latent_prior.py",
        "return of_each.logsumexp(1) - math.log(len(self.mean))",
        "return of_each.logsumexp(1)",
        "models/test_models_vae_priors.py",
    ),
    Fault(
        "no slope past the codebook",
        "models/vq.py",
        "(y + (z - y).detach(), condition)",
        "(z, condition)",
        "models/test_models_vq.py",
    ),
    Fault(
        "a baseline that knows the draw itself",
        "algorithms/estimators.py",
        "others = (fixed.sum(0) - fixed) / (draws - 1)",
        "others = fixed.mean(0)",
        "algorithms/test_estimators.py",
    ),
    Fault(
        "weights of levels the wrong way round",
        "models/discrete_vae.py",
        "(log_mass(self.prior, z) - log_mass(logits, z)).sum(1)",
        "(log_mass(self.prior, z) + log_mass(logits, z)).sum(1)",
        "models/test_models_gumbel.py",
    ),
    Fault(
        "attention to what comes after",
        "nets/causal.py",
        "is_causal=True",
        "is_causal=False",
        "nets/test_sequence.py",
    ),
    Fault(
        "places turned the wrong way",
        "nets/causal.py",
        "b * cos + a * sin], -1)",
        "b * cos - a * sin], -1)",
        "nets/test_sequence.py",
    ),
    Fault(
        "tokens that see themselves",
        "nets/sequence.py",
        "torch.cat([start, *tokens], 1)",
        "torch.cat([*tokens, start], 1)",
        "nets/test_sequence.py",
    ),
    Fault(
        "discounts of other counts",
        "models/ngram.py",
        "(j - (j + 1) * y",
        "(j - j * y",
        "models/test_models_ngram.py",
    ),
    Fault(
        "shorter contexts with all their weight",
        "models/ngram.py",
        "self.left[context] * shorter, shorter",
        "shorter, shorter",
        "models/test_models_ngram.py",
    ),
    Fault(
        "scores of attention scaled twice",
        "kernels/causal.py",
        "F(1.0) / np.sqrt(F(size))",
        "F(1.0) / F(size)",
        "kernels/test_kernels_causal.py",
    ),
    Fault(
        "mass of a cell taken for its density",
        "models/blocks.py",
        "log_density = log_density - math.log(self.resolution)",
        "log_density = log_density",
        _ELEMENTS,
    ),
    Fault(
        "rows of other processes without gradients",
        "core/gather.py",
        "        dist.all_reduce(gradient)\n",
        "",
        _TWO,
    ),
    Fault(
        "an example its own negative",
        "models/contrastive.py",
        'similarity = similarity.scatter(1, itself[:, None], float("-inf"))',
        "similarity = similarity + 0 * itself[:, None]",
        _OTHERS,
    ),
    Fault(
        "seeds reused across blocks of rows",
        "core/random.py",
        "self._generators[-1].manual_seed(mix(self.seed, block))",
        "self._generators[-1].manual_seed(mix(self.seed))",
        "core/test_core_random.py",
    ),
    Fault(
        "the other rows lose their condition",
        "core/context.py",
        "torch.where(drop.view(-1, *(1,) * (a.dim() - 1)), a, b)",
        "torch.where(drop.view(-1, *(1,) * (a.dim() - 1)), b, a)",
        "core/test_core_model.py",
    ),
    Fault(
        "checkpoint without optimiser moments",
        "fitting/trainer.py",
        'tensors[f"optimiser/{turn.name}/{name}/{key}"] = value',
        "pass",
        "fitting/test_resume.py",
    ),
)


def mutate(fault: Fault, package: Path) -> None:
    """Put ``fault`` into a copy of the package. Raises ValueError where its snippet does not occur exactly once."""
    path = package / fault.file
    text = path.read_text()
    if (count := text.count(fault.old)) != 1:
        raise ValueError(f"{fault.name}: the snippet occurs {count} times in {fault.file}, expected once")
    path.write_text(text.replace(fault.old, fault.new))


def run(folder: Path, selection: list[str]) -> tuple[int, str]:
    """Exit code and output of the tests against the copy in ``folder``, which must be the one that is imported."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run(
        [sys.executable, "-c", "import pushforward; print(pushforward.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=TESTS.parent,
    ).stdout.strip()
    if not Path(found).is_relative_to(folder):
        raise RuntimeError(f"the copy in {folder} is not what is imported, but {found}")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", *(str(TESTS / s) for s in selection)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=TESTS.parent)
    return done.returncode, done.stdout + done.stderr


def attempt(fault: Fault | None, selection: list[str]) -> tuple[int, str, float]:
    """The tests on a fresh copy with ``fault`` in it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        # numba's cache comes along, or every copy would compile its kernels anew; a changed file is compiled all the same
        shutil.copytree(PACKAGE, folder / "pushforward", ignore=shutil.ignore_patterns("*.pyc"))
        if fault is not None:
            mutate(fault, folder / "pushforward")
        code, output = run(folder, selection)
    return code, output, time.monotonic() - began


def main(words: list[str]) -> int:
    """Try every fault whose name holds one of ``words`` (all without any)."""
    faults = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    code, output, seconds = attempt(None, sorted({f.selection for f in faults}))
    if code != 0:
        print(output[-3000:], f"\nthe tests fail without any fault (exit code {code})")
        return 1
    print(f"{'no fault':44} passes     {seconds:5.1f} s", flush=True)
    missed = 0
    with ThreadPoolExecutor(2) as pool:
        for fault, (code, output, seconds) in zip(faults, pool.map(lambda f: attempt(f, [f.selection]), faults), strict=True):
            caught = code == 1  # a test failed; other codes mean that no test could be run
            missed += not caught
            verdict = "caught" if caught else "SURVIVED" if code == 0 else f"BROKEN {code}"
            print(f"{fault.name:44} {verdict:10} {seconds:5.1f} s  {fault.selection}", flush=True)
            if not caught and code != 0:
                print(output[-1500:])
    print(f"{len(faults) - missed} of {len(faults)} faults caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
