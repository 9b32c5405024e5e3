"""The trainer against a loop written by hand, and everything it promises around the steps."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from tiny import Line, NoOptions, job, own_family, points, vectors

import pushforward as pf
from pushforward.catalog.adversarial import WganGpOptions, wgan_gp
from pushforward.catalog.flows import NiceOptions, nice
from pushforward.core.errors import Interrupted, RecipeError, TrainingDiverged
from pushforward.core.model import Batch, Turn
from pushforward.core.random import Draws
from pushforward.fitting import validation
from pushforward.fitting.fit import fit_data
from pushforward.fitting.history import History
from pushforward.fitting.options import Training
from pushforward.fitting.progress import Progress
from pushforward.fitting.trainer import GradientFit, train
from pushforward.fitting.validation import validation_loss


def small_nice(data, seed=0):
    torch.manual_seed(seed)
    model = nice(data.schema, NiceOptions(transforms=2, hidden=(8,)))
    model.prepare(data.rows().x)
    return model


def small_wgan(data, seed=0):
    torch.manual_seed(seed)
    model = wgan_gp(data.schema, WganGpOptions(latent=3, critic_steps=2, hidden=(8,)))
    model.prepare(data.rows().x)
    return model


def by_hand(model, batches, *, steps, rate, decay, clip, average, warmup, accumulate=1):
    """AdamW from its formulas (Loshchilov & Hutter 2017), one round after another; returns the raw and averaged parameters."""
    named = dict(model.named_parameters())
    average_of = {n: p.detach().clone() for n, p in named.items()}
    moments = {}
    for step in range(steps):
        done = step / steps
        warm = 1.0
        if warmup and done < warmup:
            warm = max(done / warmup, 1 / max(1, warmup * steps), 0.01)
        lr = rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        for turn in model.turns:
            for _ in range(turn.repeats):
                mine = {n: p for n, p in named.items() if not turn.modules or n.split(".")[0] in turn.modules}
                gradients = {n: torch.zeros_like(p) for n, p in mine.items()}
                for _ in range(accumulate):
                    loss = model(next(batches), turn.name)["loss"].mean() / accumulate
                    found = torch.autograd.grad(loss, list(mine.values()), allow_unused=True)
                    for name, gradient in zip(mine, found, strict=True):
                        if gradient is not None:
                            gradients[name] += gradient
                norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
                scale = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
                with torch.no_grad():
                    for name, p in mine.items():
                        g = gradients[name] * scale
                        first, second, count = moments.get((turn.name, name), (torch.zeros_like(p), torch.zeros_like(p), 0))
                        b1, b2 = turn.betas
                        first, second, count = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * g * g, count + 1
                        moments[turn.name, name] = first, second, count
                        if p.dim() > 1:
                            p *= 1 - lr * turn.learning_rate_scale * decay
                        root = (second / (1 - b2**count)).sqrt() + 1e-8
                        p -= lr * turn.learning_rate_scale * (first / (1 - b1**count)) / root
        share = min(average, (1 + step + 0) / (10 + step))
        for name, p in named.items():
            average_of[name] = share * average_of[name] + (1 - share) * p.detach()
    return {n: p.detach() for n, p in named.items()}, average_of


def batches_of(model, data, **training):
    """The trainer's own batches, from another instance of it."""
    fit = GradientFit(job(model, data, **training), History())
    while True:
        yield fit.next_batch()


@pytest.mark.parametrize("build", [small_nice, small_wgan])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_equals_a_loop_written_by_hand(build, accumulate):
    data = vectors(points(90, 4))
    options = {"steps": 12, "learning_rate": 0.01, "weight_decay": 0.3, "clip": 0.7, "average": 0.9, "warmup": 0.3}
    options |= {"accumulate": accumulate, "validate": 1, "batch_size": 16}
    ours, theirs = build(data), build(data)
    history = train(job(ours, data, **options))
    theirs.train()
    raw, averaged = by_hand(
        theirs,
        batches_of(build(data), data, **options),
        steps=12,
        rate=0.01,
        decay=0.3,
        clip=0.7,
        average=0.9,
        warmup=0.3,
        accumulate=accumulate,
    )
    for name, value in ours.named_parameters():
        torch.testing.assert_close(history.raw[name], raw[name], rtol=2e-4, atol=2e-6, msg=lambda m, n=name: f"raw {n}: {m}")
        torch.testing.assert_close(value.detach(), averaged[name], rtol=2e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
    start = build(data)
    for name, value in start.named_parameters():
        if value.dim() > 1:  # a critic's last bias has no gradient
            assert float((history.raw[name] - value.detach()).abs().max()) > 1e-3


def test_batches_are_epochs_of_a_shuffle():
    data = vectors(np.arange(50.0)[:, None])
    source = batches_of(small_nice(data), data, batch_size=8)
    seen = torch.cat([next(source).x[:, 0] for _ in range(25)]).reshape(4, 50)
    for epoch in seen:
        assert epoch.sort().values.tolist() == list(range(50))
    assert len({tuple(epoch.tolist()) for epoch in seen}) == 4
    other = batches_of(small_nice(data), data, batch_size=8, seed=1)
    assert next(other).x[:, 0].tolist() != seen[0, :8].tolist()


def test_noise_of_a_batch_belongs_to_its_rows():
    data = vectors(points(64))
    a, b = batches_of(small_nice(data), data), batches_of(small_nice(data), data)
    first, again, second = next(a), next(b), next(a)
    assert torch.equal(first.draws.normal(3), again.draws.normal(3))
    assert not torch.equal(first.draws.normal(3), second.draws.normal(3))


def test_decay_touches_matrices_only():
    class Still(Line):
        """Its loss has no gradient, so only the decay moves anything."""

        def _loss(self, batch, turn):
            return {"loss": 0 * (self.matrix.sum() + self.bias.sum()) + torch.zeros(len(batch.x))}

    data = vectors(points(64))
    model = Still(data.schema)
    with torch.no_grad():
        model.bias.fill_(2.0)
    before = model.matrix.detach().clone()
    history = train(job(model, data, weight_decay=1.0, learning_rate=0.1, average=0, patience=0))
    assert torch.equal(history.raw["bias"], torch.full((3,), 2.0))
    ratio = history.raw["matrix"] / before
    assert 0.1 < float(ratio[0, 0]) < 0.9
    torch.testing.assert_close(ratio, ratio[0, 0].expand(3, 3), rtol=1e-5, atol=0)


def test_two_halves_accumulated_are_one_batch():
    """nice draws no numbers for vectors, so rows alone decide."""
    data = vectors(points(96, 4))
    results = []
    for size, accumulate in ((32, 1), (16, 2), (8, 4)):
        model = small_nice(data)
        train(job(model, data, batch_size=size, accumulate=accumulate, steps=9, validate=1))
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(results[2], results[0], rtol=1e-4, atol=1e-6)


def test_training_does_not_depend_on_what_was_drawn_before():
    data, found = vectors(points(64)), []
    for seed in (1, 2):
        model = small_wgan(data)
        torch.manual_seed(seed)
        train(job(model, data, steps=3))
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*found)


# validation


def test_validation_is_the_same_number_whatever_the_chunks(monkeypatch):
    from pushforward.catalog.variational import VaeOptions, vae

    data = vectors(points(300))
    torch.manual_seed(0)
    model = vae(data.schema, VaeOptions(latent=2, hidden=(8,)))
    model.prepare(data.rows().x)
    with torch.no_grad():  # at the start the decoder does not look at its code
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    device = torch.device("cpu")
    first = validation_loss(model, data, 3, device)
    assert validation_loss(model, data, 3, device) == first
    assert validation_loss(model, data, 4, device) != first
    for chunk in (7, 64, 100, 1000):
        monkeypatch.setattr(validation, "_CHUNK", chunk)
        assert validation_loss(model, data, 3, device) == pytest.approx(first, rel=1e-6)
    assert model.training


def test_validation_times_are_stratified():
    """All rows of the validation set share one set of cells, so a loss that depends on t alone is known almost exactly."""
    data = vectors(points(1000))

    class Times(Line):
        def _loss(self, batch, turn):
            return {"loss": batch.draws.stratified().square() + 0 * self.bias.sum()}

    value = validation_loss(Times(data.schema), data, 0, torch.device("cpu"))
    assert value == pytest.approx(1 / 3, abs=1e-4)  # independent times would be off by about 0.01


def test_validation_looks_at_2048_rows():
    seen = []
    data = vectors(points(3000))

    class Counts(Line):
        def _loss(self, batch, turn):
            seen.append(len(batch.x))
            assert not self.training
            return {"loss": batch.x[:, 0].float() + 0 * self.bias.sum()}

    model = Counts(data.schema)
    value = validation_loss(model, data, 0, torch.device("cpu"))
    assert sum(seen) == 2048
    assert value == pytest.approx(float(data.rows(slice(0, 2048)).x[:, 0].mean()), rel=1e-5)


def test_stratified_numbers_fall_one_into_each_cell():
    u = torch.cat([Draws(5, start, start + 50, 200).stratified(torch.float64) for start in range(0, 200, 50)])
    assert (u * 200).floor().sort().values.tolist() == list(range(200))


# stopping


class Rises(Line):
    """Training goes on happily; the validation loss falls to step ``turn_at`` and rises after it."""

    def __init__(self, schema, turn_at):
        super().__init__(schema)
        self.turn_at = turn_at
        self.register_buffer("count", torch.zeros(()))

    def after_step(self, turn):
        self.count += 1

    def _loss(self, batch, turn):
        value = (self.count - self.turn_at).abs()
        return {"loss": (0 * self.matrix.sum() + 0 * self.bias.sum() + value).expand(len(batch.x))}


def test_patience_stops_and_the_best_state_is_kept():
    data = vectors(points(64))
    model = Rises(data.schema, 12)
    history = train(job(model, data, steps=100, validate=50, patience=4))
    assert [r.step for r in history.records] == [*range(2, 13, 2), 14, 16, 18, 20]
    assert float(model.count) == 12
    assert float(history.raw["count"]) == 20
    assert not model.training


def test_patience_zero_never_stops():
    data = vectors(points(64))
    model = Rises(data.schema, 4)
    history = train(job(model, data, steps=40, validate=40, patience=0))
    assert history.records[-1].step == 40
    assert float(model.count) == 4


def test_the_callback_stops_by_false_only():
    data = vectors(points(64))
    for answer, steps in ((False, 6), (None, 20), (True, 20), (0, 20)):
        task = job(small_nice(data), data, steps=20, validate=10, patience=0)
        task.callback = lambda record, answer=answer: answer if record.step >= 6 else None
        assert train(task).records[-1].step == steps


def test_records_say_what_happened():
    data, seen = vectors(points(128)), []
    task = job(small_nice(data), data, steps=20, validate=5, patience=0, batch_size=32)
    task.callback = seen.append
    history = train(task)
    assert [r.step for r in seen] == [4, 8, 12, 16, 20]
    assert history.records == seen
    assert [r.epoch for r in seen] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert all(r.train is not None and math.isfinite(r.train) for r in seen)
    rates = [r.learning_rate for r in seen]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(1e-3 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 19 / 20))))
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(seen))


def test_a_gan_is_judged_by_its_samples():
    data = vectors(points(128))
    history = train(job(small_wgan(data), data, steps=4, validate=2))
    assert {r.criterion for r in history.records} == {"sliced_wasserstein"}
    assert all(r.validation > 0 for r in history.records)


def test_the_terms_of_every_turn_are_recorded():
    data = vectors(points(128))
    history = train(job(small_wgan(data), data, steps=4, validate=2))
    assert all({"wasserstein", "penalty"} == set(r.terms) for r in history.records)


@pytest.mark.parametrize(("distances", "kept"), [((3.0, 2.0, 2.4), 3), ((3.0, 2.0, 2.6), 2), ((3.0, 2.0, 2.6, 2.4), 4)])
def test_of_a_gan_a_later_state_is_kept_unless_it_is_clearly_worse(distances, kept, monkeypatch):
    data = vectors(points(64))
    model = Rises(data.schema, 0)
    monkeypatch.setattr(Rises, "comparable", False)
    told = iter(distances)
    monkeypatch.setattr("pushforward.fitting.trainer.sample_distance", lambda *_: next(told))
    history = train(job(model, data, steps=len(distances), validate=len(distances), patience=1))
    assert [r.validation for r in history.records] == list(distances)
    assert float(model.count) == kept


def test_by_the_clock_validation_takes_a_share_of_the_time_at_most(monkeypatch):
    data = vectors(points(64))
    spent = []

    def slowly(*args, **rest):
        began = time.monotonic()
        time.sleep(0.15)
        spent.append(time.monotonic() - began)
        return 1.0

    monkeypatch.setattr("pushforward.fitting.trainer.validation_loss", slowly)
    task = job(small_nice(data), data, steps=None, minutes=3 / 60, validate=40, patience=0)
    history = train(task)
    assert 2 <= len(history.records) < 10  # 40 would have taken six seconds
    assert sum(spent) < 1.2


@pytest.mark.parametrize(("pace", "rows"), [(2e-3, 128), (0.0, 2048)])
def test_by_the_clock_slow_validations_look_at_fewer_rows(monkeypatch, pace, rows):
    data, looked = vectors(points(64)), []

    def look(*args):
        looked.append(args[-1])
        time.sleep(pace * args[-1])
        return 1.0

    monkeypatch.setattr("pushforward.fitting.trainer.validation_loss", look)
    task = job(small_nice(data), data, steps=None, minutes=2 / 60, validate=40, patience=0)
    train(task)
    assert looked[:2] == [2, 64]
    assert len(looked) > 2
    assert set(looked[2:]) == {rows}


# non-finite losses


def exploding(at, data, **training):
    """A job whose loss is NaN in the batches numbered ``at`` (from 0)."""
    seen = {"batches": 0}

    def touch(model, batch, loss):
        if not model.training:
            return loss
        seen["batches"] += 1
        return loss * float("nan") if seen["batches"] - 1 in at else loss

    model = Line(data.schema, touch)
    return model, job(model, data, **({"steps": 30, "validate": 10, "patience": 0} | training))


def test_a_non_finite_loss_rolls_back_and_training_goes_on():
    data = vectors(points(96))
    model, task = exploding({13}, data)
    history = train(task)
    events = [line for line in history.lines if "event" in line]
    assert [(e["event"], e["step"]) for e in events] == [("rollback", 15)]
    assert "not finite at step 15" in events[0]["message"]
    assert "rolled back to step 12" in events[0]["message"]
    assert [r.step for r in history.records] == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    assert all(math.isfinite(r.validation) and math.isfinite(r.train) for r in history.records)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    # half the learning rate from then on
    assert history.records[4].learning_rate == pytest.approx(
        0.5 * 1e-3 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 14 / 30)))
    )


def test_a_loss_that_is_never_finite_is_given_up():
    data = vectors(points(96))
    _, task = exploding(range(20, 10_000), data)
    with pytest.raises(TrainingDiverged, match="6 times") as found:
        train(task)
    assert "learning_rate" in str(found.value)
    assert "\n" not in str(found.value)


def test_a_run_that_rolled_back_resumes_to_the_same_bits(tmp_path):
    """Also where the checkpoint of a step is written a second time."""
    from tiny import lines

    class Bad(Line):
        def __init__(self, schema):
            super().__init__(schema)
            self.register_buffer("steps", torch.zeros(()))

        def after_step(self, turn):
            self.steps += 1

        def _loss(self, batch, turn):
            loss = -self.log_prob(batch.x)
            # the first time round only: the rows of a batch are never the same again
            bad = self.training and float(self.steps) == 13 and float(batch.draws.uniform()[0]) == bad_draw[0]
            return {"loss": loss * float("nan") if bad else loss}

    data = vectors(points(100))
    training = Training(steps=20, validate=5, batch_size=16, device="cpu", save_every=0, patience=0)
    rows = data.split(0).train
    probe = GradientFit(job(Line(data.schema), rows, batch_size=16), History())
    for _ in range(14):
        batch = probe.next_batch()
    bad_draw = [float(batch.draws.uniform()[0])]
    fam = own_family(Bad)

    def go(out, **rest):
        return fit_data(data, fam, fam.configure({}), training, out=out, report=False, quiet=True, **rest)

    class Stop(Exception):
        pass

    def stop(record):
        if record.step >= 16:
            raise Stop

    go(tmp_path / "whole")
    with pytest.raises(Stop):
        go(tmp_path / "run", callback=stop)
    # the newest checkpoint is of the second time round
    (newest,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert newest.name == "step-000000015"
    go(tmp_path / "run", resume=True)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert sum("event" in line for line in lines(tmp_path / "run")) == 1
    for file in ("model.safetensors", "raw.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


# options and budgets


def test_minutes_stop_in_time():
    began = time.monotonic()
    model = pf.fit(points(200), "nice", minutes=0.02, hidden=(8,), quiet=True)
    assert model.recipe["steps"] > 5
    assert 0.8 < model.recipe["seconds"] < 60
    assert time.monotonic() - began < 120
    assert len(model.history) >= 2
    rates = [line["learning_rate"] for line in model.history]
    assert rates[-1] < 0.3 * max(rates)


@pytest.mark.parametrize(("name", "options"), [("nice", {"hidden": (8,)}), ("gmm", {"components": 2})])
def test_however_little_time_there_is_a_step_is_made(name, options):
    model = pf.fit(points(100), name, minutes=1e-9, quiet=True, **options)
    assert model.recipe["steps"] == 1
    assert np.isfinite(model.log_prob(points(5))).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 1000}, "batch_size 1000 is larger than the 160 training rows"),
        ({"steps": 0}, "steps must be at least 1, found 0"),
        ({"steps": -3}, "steps must be at least 1"),
        ({"minutes": 0}, "minutes must be above 0"),
        ({"minutes": float("nan")}, "minutes must be above 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"average": 1.0}, "average must be in"),
        ({"clip": -1}, "clip must be at least 0"),
        ({"precision": "float16"}, "precision is auto, float32, medium or bf16, found 'float16'"),
        ({"device": "abacus"}, "no device is called 'abacus'"),
        ({"stepz": 3}, "did you mean 'steps'"),
        ({"steps": "many"}, "wrong type"),
    ],
)
def test_options_that_make_no_sense(options, said):
    with pytest.raises(RecipeError, match=said) as found:
        pf.fit(points(200), "nice", quiet=True, **options)
    assert "\n" not in str(found.value)


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    def state():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), str(random.getstate())  # noqa: NPY002

    torch.manual_seed(5)
    before = state()
    options = {"steps": 3, "hidden": (8,), "quiet": True, "report": False, "out": tmp_path / "run"}
    pf.fit(points(100), "nice", **options)
    assert state() == before
    torch.manual_seed(6)
    before = state()
    pf.fit(points(100), "nice", resume=True, **options)  # the checkpoint holds other states
    assert state() == before


def test_the_seed_decides_everything():
    def weights(**options):
        model = pf.fit(points(100), "vae", steps=3, hidden=(8,), latent=2, quiet=True, **options)
        return torch.cat([t.flatten().double() for t in model.model.state_dict().values()])

    assert torch.equal(weights(), weights(seed=0))
    assert not torch.equal(weights(), weights(seed=1))


def test_bf16_runs_and_is_close():
    options = {"steps": 60, "hidden": (32,), "quiet": True, "validate": 2}
    x = points(400)
    full = pf.fit(x, "nice", precision="float32", **options)
    half = pf.fit(x, "nice", precision="bf16", **options)
    assert half.recipe["training"]["precision"] == "bf16"
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    a, b = (m.history[-1]["validation"] for m in (full, half))
    assert a != b
    assert b == pytest.approx(a, abs=0.05)


def product_settings():
    return (torch.get_float32_matmul_precision(), *(b.fp32_precision for b in BACKENDS))


BACKENDS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)


@pytest.fixture
def restored():
    before = product_settings()
    yield
    torch.set_float32_matmul_precision(before[0])
    for backend, value in zip(BACKENDS, before[1:], strict=True):
        backend.fp32_precision = value


class Stop(BaseException):
    """Passes through whatever catches exceptions."""


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize("error", [None, RuntimeError, Stop, KeyboardInterrupt])
@pytest.mark.usefixtures("restored")
def test_medium_holds_while_it_trains_and_validates(before, error, monkeypatch):
    torch.set_float32_matmul_precision(before)
    outside, seen = product_settings(), []

    class Looking(Line):
        def _loss(self, batch, turn):
            seen.append((self.training, torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
            if error is not None and len(seen) > 6:
                raise error
            return super()._loss(batch, turn)

    fam, data = own_family(Looking), vectors(points(200))
    training = Training(steps=8, batch_size=32, validate=4, precision="medium", device="cpu")
    with contextlib.nullcontext() if error is None else pytest.raises(error):
        fitted = fit_data(data, fam, NoOptions(), training, quiet=True)
        assert fitted.recipe["training"]["precision"] == "medium"
        assert all(p.dtype == torch.float32 for p in fitted.model.parameters())
    assert {now for _, now, _ in seen} == {"medium"}
    assert {training for training, _, _ in seen} == {True, False}
    assert not any(autocast for _, _, autocast in seen)
    assert product_settings() == outside


@pytest.mark.parametrize("name", ["gmm", "independent"])
@pytest.mark.usefixtures("restored")
def test_medium_holds_for_statistics_and_baselines(name, monkeypatch):
    seen, real = [], validation.validation_loss

    def looking(*args, **rest):
        seen.append(torch.get_float32_matmul_precision())
        return real(*args, **rest)

    for module in ("direct", "trainer"):
        monkeypatch.setattr(f"pushforward.fitting.{module}.validation_loss", looking)
    torch.set_float32_matmul_precision("highest")
    options = {"components": 2, "steps": 2} if name == "gmm" else {}
    pf.fit(points(100), name, precision="medium", quiet=True, **options)
    assert set(seen) == {"medium"}
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.usefixtures("restored")
def test_ctrl_c_puts_the_products_back(tmp_path):
    torch.set_float32_matmul_precision("high")
    outside = product_settings()
    press = lambda record: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Interrupted):
        pf.fit(points(100), "nice", steps=50, hidden=(8,), precision="medium", quiet=True, callback=press)
    assert product_settings() == outside


@pytest.mark.usefixtures("restored")
def test_backends_set_one_by_one_are_put_back():
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "tf32"  # torch refuses to sum this up in one word
    seen = []
    look = lambda record: seen.append(torch.get_float32_matmul_precision())
    pf.fit(points(100), "nice", steps=2, hidden=(8,), precision="medium", quiet=True, callback=look)
    assert set(seen) == {"medium"}
    assert [b.fp32_precision for b in BACKENDS] == ["tf32", "ieee"]


@pytest.mark.parametrize("precision", ["float32", "bf16", "auto"])
def test_other_precisions_leave_the_products_alone(precision):
    before, seen = torch.get_float32_matmul_precision(), []
    look = lambda record: seen.append(torch.get_float32_matmul_precision())
    pf.fit(points(100), "nice", steps=2, hidden=(8,), precision=precision, quiet=True, callback=look)
    assert set(seen) == {before}


def test_tensorboard_writes_events(tmp_path):
    seen = []
    pf.fit(
        points(100),
        "vae",
        steps=4,
        validate=2,
        hidden=(8,),
        latent=2,
        quiet=True,
        report=False,
        out=tmp_path / "run",
        tensorboard=True,
        callback=seen.append,
    )
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(file))
    events.Reload()
    assert {"train", "loss", "learning_rate", "rate", "distortion"} <= set(events.Tags()["scalars"])
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(r.step, pytest.approx(r.validation)) for r in seen]
    with pytest.raises(RecipeError, match="run folder"):
        pf.fit(points(100), "nice", steps=2, tensorboard=True, quiet=True)


# what is shown


def test_quiet_prints_nothing(capfd, tmp_path):
    pf.fit(points(100), "nice", steps=3, hidden=(8,), quiet=True, report=False, out=tmp_path / "run")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_plain_lines_where_there_is_no_terminal(capsys):
    with Progress("fit nice", after=0, every=0) as progress:
        progress.update(0.25, train=1.23456, validation=None, **{"examples/s": 12345.6})
        progress.say("rolled back")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("fit nice: 25 %, ")
    assert "train 1.235" in lines[0]
    assert "validation" not in lines[0]
    assert lines[0].endswith("examples/s 12,346")
    assert lines[1] == "rolled back"
    assert "\x1b" not in "".join(lines)


def test_within_a_quiet_task_all_is_quiet(capsys):
    with Progress("outer", quiet=True), Progress("inner", after=0, every=0) as inner:
        inner.update(0.5)
        inner.say("a line")
    assert capsys.readouterr().err == ""
    with Progress("outer", after=0, every=0), Progress("inner", after=0, every=0) as inner:
        inner.update(0.5)
    with Progress("after", after=0, every=0) as after:
        after.update(0.25)
    said = capsys.readouterr().err
    assert "inner: 50 %" in said
    assert "after: 25 %" in said


def test_lines_are_few(capsys):
    progress = Progress("fit", after=0, every=1000)
    progress._last -= 2000
    for i in range(100):
        progress.update(i / 100)
    assert len(capsys.readouterr().err.splitlines()) == 1


# turns


def test_each_turn_trains_its_own_parameters():
    data = vectors(points(64))
    model = small_wgan(data)
    fit = GradientFit(job(model, data), History())
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    critic, generator = model.turns
    fit._step(critic, fit.optimisers["critic"])
    moved = {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"critic"}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for group in fit.optimisers["generator"].param_groups:
        group["lr"] = 1e-3
    fit._step(generator, fit.optimisers["generator"])
    moved = {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"generator"}


def test_after_step_is_told_whose_turn_it_was():
    told = []

    class Tells(Line):
        turns = (Turn("one", ("matrix",), 2), Turn("two", ("bias",), 1, learning_rate_scale=0.0))

        def after_step(self, turn):
            told.append(turn)

        def _loss(self, batch: Batch, turn):
            return {"loss": -self.log_prob(batch.x)}

    data = vectors(points(64))
    model = Tells(data.schema)
    train(job(model, data, steps=2, average=0))
    assert told == ["one", "one", "two"] * 2
    assert torch.equal(model.bias, torch.zeros(3))  # its learning rate is scaled by zero
    assert not torch.equal(model.matrix, torch.eye(3) + 0.1)
