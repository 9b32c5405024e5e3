"""Reports of made-up run folders: every kind of data, a GAN, a failed family; hostile names; diagnosis of curves."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from pushforward.core.errors import CheckpointError, DataError, PushforwardError
from pushforward.core.schema import Column, ColumnKind, Image, Points, Schema, Signal, Table, Tokens, Vector, to_json
from pushforward.fitting.report import diagnose, write_report
from pushforward.fitting.report_values import number

NASTY = '<script>alert("x")</script> $\\frac{ é 値'
GREEN = "<script>green()</script>"
NEEDED = ("recipe.json", "metrics.jsonl", "preview.npz", "samples.npz")


def curve(kind="exponential", n=40, start=100, noise=0.0, criterion="loss", validation=True, seed=0):
    rng = np.random.default_rng(seed)
    t = np.linspace(1 / n, 1, n)
    train = {
        "exponential": 5 + 20 * np.exp(-6 * t),
        "falling": 25 - 20 * t,
        "overfitting": 5 + 20 * np.exp(-3 * t),
        "unstable": 5 + 20 * np.exp(-8 * t) + 15 * np.maximum(0, t - 0.4),
    }[kind]
    extra = 15 * np.maximum(0, t - 0.35) if kind == "overfitting" else 0.0
    valid = train + 0.5 + extra + noise * rng.normal(size=n)
    train = train + noise * rng.normal(size=n)
    return [
        {
            "step": start * (i + 1),
            "train": float(train[i]),
            "validation": float(valid[i]) if validation else None,
            "criterion": criterion,
            "seconds": 0.1 * i,
            "terms": {},
            "unknown": [1],
        }
        for i in range(n)
    ]


def metric(name, value, *, error=None, kind=None, better="lower", note=""):
    label = {"nats": "−log p (nats)", "c2st": "two-sample accuracy"}.get(name, name)
    return {
        "name": name,
        "label": label,
        "value": value,
        "standard_error": error,
        "better": better,
        "kind": kind,
        "n": 180,
        "note": note,
    }


def make(folder, family, schema, *, name="data", real=None, samples=None, metrics=None, records=None, density=None, **recipe):
    """A run folder. ``real`` and ``samples`` are (x, {column: codes})."""
    folder.mkdir(parents=True)
    plain = {
        "version": 1,
        "family": family,
        "options": {"hidden": [64, 64]},
        "schema": to_json(schema),
        "data": {"name": name, "rows": {"train": 1437, "validation": 180, "test": 180}, "notes": ["column id was left out"]},
        "training": {"steps": 4000, "learning_rate": 1e-3},
        "seed": 0,
        "parameters": 12345,
        "seconds": 12.3,
        "steps": 4000,
        "versions": {"pushforward": "0.1.0", "torch": "2"},
    } | recipe
    (folder / "recipe.json").write_text(json.dumps(plain))
    lines = records if records is not None else curve(noise=0.1)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    if metrics is not None:
        (folder / "evaluation.json").write_text(json.dumps({"family": family, "metrics": metrics}))
    for file, held in (("preview.npz", real), ("samples.npz", samples)):
        if held is not None:
            np.savez(folder / file, x=held[0], **{f"column/{k}": v for k, v in held[1].items()})
    if density is not None:
        np.savez(folder / "density.npz", **density)
    return folder


def failed(folder, family, name, error):
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps({"version": 1, "family": family, "data": {"name": name}}))
    (folder / "error.txt").write_text(error + "\n")
    return folder


def image_runs(tmp, channels=1, side=8, levels=17, families=("nice", "vae"), n=120):
    rng = np.random.default_rng(0)
    label = Column("label", ColumnKind.CATEGORY, tuple(range(5)), dtype="int64")
    schema = Schema(Image(channels, side, side, levels), (label,))
    bump = np.exp(-((np.arange(side) - side / 2) ** 2) / side)

    def draw(noise):
        y = rng.integers(0, 5, n)
        shape = np.roll(np.outer(bump, bump), 1)[None, None] * (0.4 + 0.15 * y[:, None, None, None])
        x = (shape + noise * rng.random((n, channels, side, side))) * (levels - 1)
        return x.clip(0, levels - 1).astype(np.uint8), {"label": y.astype(float)}

    real = draw(0.1)
    kinds = ["exact", "lower_bound", "ode"]
    return [
        make(
            tmp / f"{i}-{f}",
            f,
            schema,
            name="digits",
            real=real,
            samples=draw(0.2 + 0.1 * i),
            metrics=[metric("nats", 93.1 - i, error=0.52, kind=kinds[i % 3]), metric("c2st", 0.6 + 0.05 * i)],
        )
        for i, f in enumerate(families)
    ]


def table_schema():
    return Schema(
        Table(
            (
                Column("id", ColumnKind.IDENTIFIER, dtype="int64"),
                Column(NASTY, ColumnKind.NUMBER, missing=True, lower=-5, upper=90, dtype="float64"),
                Column("rooms", ColumnKind.INTEGER, resolution=1.0, lower=1, upper=9, dtype="int64"),
                Column(
                    "colour", ColumnKind.CATEGORY, ("red", "<script>green()</script>", "blue"), missing=True, dtype="object|str"
                ),
                Column("sold", ColumnKind.BOOLEAN, (False, True), dtype="bool"),
                Column("day", ColumnKind.DATE, resolution=1.0, lower=18000, upper=19000, dtype="datetime64[ns]"),
                Column("price", ColumnKind.NUMBER, resolution=0.01, lower=0, upper=900, dtype="float64"),
            )
        )
    )


def table_codes(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    x = np.stack(
        [
            20 + 8 * z + shift,
            np.clip(np.round(4 + 1.5 * z + rng.normal(size=n)), 1, 9),
            rng.choice(4, n, p=[0.5, 0.3, 0.15, 0.05]),
            rng.random(n) < 0.3,
            18000 + rng.integers(0, 1000, n),
            np.round(np.exp(4 + 0.5 * z + 0.3 * rng.normal(size=n)), 2),
        ],
        axis=1,
    ).astype(float)
    x[rng.random(n) < 0.1, 0] = np.nan
    return x


def table_runs(tmp, families=("gaussian", "made"), n=300):
    real = (table_codes(n, 0), {})
    kinds = {"vae": "lower_bound", "rectified-flow": "ode"}
    return [
        make(
            tmp / f"{i}-{f}",
            f,
            table_schema(),
            name="sales",
            real=real,
            samples=(table_codes(n, i + 1, shift=3.0 * i), {}),
            metrics=[metric("nats", 12.5 - 0.4 * i, error=0.11, kind=kinds.get(f, "exact"), note="in the data's own units")],
        )
        for i, f in enumerate(families)
    ]


def plane_runs(tmp, families=("nice", "gmm"), gan=True):
    rng = np.random.default_rng(0)
    schema = Schema(Vector(2))
    angle = rng.uniform(0, 2 * np.pi, 500)
    real = 2 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.2 * rng.normal(size=(500, 2))
    grid = np.linspace(-4, 4, 60)
    radius = np.hypot(*np.meshgrid(grid, grid))
    density = {"grid_x": grid, "grid_y": grid, "log_density": -((radius - 2) ** 2) / 0.08 - 2.0, "kind": np.array("exact")}
    runs = []
    for i, f in enumerate(families):
        x = real + 0.1 * (i + 1) * rng.normal(size=real.shape)
        metrics = [metric("nats", 2.0 + 0.1 * i, error=0.03, kind="exact"), metric("c2st", 0.55)]
        runs.append(make(tmp / f, f, schema, name="ring", real=(real, {}), samples=(x, {}), metrics=metrics, density=density))
    if gan:
        records = curve("falling", criterion="sliced_wasserstein")
        records.insert(20, {"event": "rollback", "step": 2000, "message": "loss was not finite; went back to step 1900"})
        x = real + 0.4 * rng.normal(size=real.shape)
        runs.append(
            make(
                tmp / "wgan-gp",
                "wgan-gp",
                schema,
                name="ring",
                real=(real, {}),
                samples=(x, {}),
                metrics=[metric("c2st", 0.7)],
                records=records,
            )
        )
        runs.append(failed(tmp / "made", "made", "ring", "out of memory <script>"))
    return runs


def text_runs(tmp, families=("made", "independent")):
    vocabulary = tuple("\0 abcdefghijklmnopqrstuvwxyz<>/")
    mood = Column("mood", ColumnKind.CATEGORY, ("calm", "<script>loud</script>"), dtype="object|str")
    schema = Schema(Tokens(vocabulary, 60), (mood,))
    rng = np.random.default_rng(0)
    words = "the quick brown fox jumps over a lazy dog and <script> runs home </script>".split()  # noqa: SIM905

    def draw(seed):
        lines = [" ".join(rng.permutation(words))[:60].ljust(60, "\0") for _ in range(30)]
        return np.array([[vocabulary.index(c) for c in line] for line in lines]), {"mood": rng.integers(0, 2, 30).astype(float)}

    real = draw(0)
    metrics = [metric("bits", 2.1, kind="exact")]
    return [make(tmp / f, f, schema, name="lines", real=real, samples=draw(i), metrics=metrics) for i, f in enumerate(families)]


def shape_runs(tmp, kind, families=("vae", "rectified-flow"), labelled=False, n=40):
    """Signals or sets of points, with a value that is not finite among the samples."""
    rng = np.random.default_rng(0)
    label = Column("label", ColumnKind.CATEGORY, ("calm", "<script>loud</script>"), dtype="object|str")

    def draw():
        x = rng.normal(size=(n, *kind.shape))
        return x, {"label": np.arange(n) % 2.0} if labelled else {}

    schema, real, runs = Schema(kind, (label,) if labelled else ()), draw(), []
    for f in families:
        samples = draw()
        samples[0][0, 0, 0] = np.nan
        runs.append(make(tmp / f, f, schema, name="shapes", real=real, samples=samples, metrics=[metric("c2st", 0.6)]))
    return runs


class Page(HTMLParser):
    """Checks that tags nest, collects attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack, tag
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    """The page, after the checks that every page must pass."""
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    for tag, attributes in page.attributes:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,")), (tag, name)
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg" and attributes.get("class") == "plot":
            assert attributes["aria-label"]
    assert "@import" not in text
    assert "url(" not in text
    assert "prefers-color-scheme" in text
    return text, page


class TestPages:
    def test_images(self, tmp_path):
        out = write_report(image_runs(tmp_path), tmp_path / "r.html")
        text, _ = read(out)
        assert "1,437" in text
        assert "column id was left out" in text
        assert text.count('alt="contact sheet: ') == 3
        assert "One row for each value of label" in text
        assert not list(tmp_path.glob(".*part*"))

    def test_one_run_and_title(self, tmp_path):
        text, _ = read(write_report(image_runs(tmp_path)[:1], tmp_path / "r.html", title="<b>mine</b>"))
        assert "<h1>&lt;b&gt;mine&lt;/b&gt;</h1>" in text
        assert "pushforward sample" in text
        assert "pushforward score" in text

    def test_table(self, tmp_path):
        text, page = read(write_report(table_runs(tmp_path), tmp_path / "r.html"))
        assert html.escape(GREEN, quote=False) in text
        assert "<script>" not in text
        assert any(NASTY in part for part in page.text)
        assert "missing: real" in text
        assert "baseline" in text
        assert "left out: identifier" in text
        # A pair plot and a correlation matrix for every model.
        assert text.count('class="pairs"') == 2
        assert text.count("furthest from real") == 2

    def test_plane(self, tmp_path):
        text, _ = read(write_report(plane_runs(tmp_path), tmp_path / "r.html"))
        assert text.count('aria-label="log density of') == 2
        assert "wgan-gp offers no density." in text
        assert "out of memory &lt;script&gt;" in text
        assert "sliced Wasserstein" in text
        assert "rollback — loss was not finite; went back to step 1900" in text

    def test_text(self, tmp_path):
        text, _ = read(write_report(text_runs(tmp_path), tmp_path / "r.html"))
        assert "<script>" not in text
        assert "mood = &lt;script&gt;loud&lt;/script&gt;" in text
        assert "\0" not in text

    @pytest.mark.parametrize("length", [30, 3000])
    def test_signals(self, tmp_path, length):
        kind = Signal(2, length, 100)
        text, page = read(write_report(shape_runs(tmp_path, kind), tmp_path / "r.html"))
        assert f"2 channels and {length} samples, {length / 100:.3g} seconds at 100 Hz" in text
        # a first look, the real data and two models, eight panels of two channels each
        assert text.count('aria-label="signals over time"') == 4
        drawn = page.tags.count("polygon") if length > 1000 else text.count('class="curve" style')
        assert drawn == 4 * 16
        assert "nan" not in "".join(v for _, a in page.attributes for k, v in a.items() if k == "points")
        assert f"{length / 100:.3g} s" in text
        assert "pushforward sample" in text
        assert "--out samples/" in text
        text, _ = read(write_report(shape_runs(tmp_path / "l", Signal(1, length), labelled=True), tmp_path / "r.html"))
        assert "One row for each value of label" in text
        assert "&lt;script&gt;" in text
        assert f"{length} samples" in text
        assert "--out samples.npy" in text

    @pytest.mark.parametrize("dims", [1, 2, 3, 5])
    def test_points(self, tmp_path, dims):
        text, _ = read(write_report(shape_runs(tmp_path, Points(20, dims)), tmp_path / "r.html"))
        assert f"Sets of 20 points in {dims} dimension" in text
        assert text.count('alt="contact sheet') == 4
        text, _ = read(write_report(shape_runs(tmp_path / "l", Points(20, dims), labelled=True), tmp_path / "r.html"))
        assert "One row for each value of label" in text

    @pytest.mark.parametrize(
        ("kind", "n"), [(Image(3, 8, 8), 8), (Vector(2), 50), (Signal(2, 30), 4), (Points(20, 3), 8), (Vector(3), 9)]
    )
    def test_snapshots_and_the_way_from_noise(self, tmp_path, kind, n):
        rng = np.random.default_rng(0)

        def draw(*shape):
            x = 100 + 20 * rng.normal(size=(*shape, *kind.shape))
            return x.astype(np.uint8) if isinstance(kind, Image) else x.astype(np.float32)

        schema, real = Schema(kind), (draw(40), {})
        runs = [make(tmp_path / f, f, schema, real=real, samples=real) for f in ("vae", "ddpm", "rectified-flow")]
        (tmp_path / "vae" / "snapshots").mkdir()
        np.savez(tmp_path / "vae" / "snapshots" / "step-000001.npz", x=draw(n))  # one alone shows nothing
        for run in runs[1:]:
            (run / "snapshots").mkdir()
            for step in (5, 1200):
                x = draw(n)
                if not isinstance(kind, Image):
                    x[0, 0] = np.nan
                np.savez(run / "snapshots" / f"step-{step:06d}.npz", x=x, done=np.array(0.1), seconds=np.array(0.1))
            np.savez(run / "trajectory.npz", x=draw(n, 3))
        text, _ = read(write_report(runs, tmp_path / "r.html"))
        count = 0 if kind == Vector(3) else 2
        assert text.count(">step 5<") == text.count(">step 1,200<") == count
        assert ">step 1<" not in text
        assert text.count(">noise<") == count
        assert ('id="snapshots"' in text) == ('id="way"' in text) == (count > 0)
        text, _ = read(write_report(runs[:1], tmp_path / "r.html"))
        assert 'id="snapshots"' not in text
        assert 'id="way"' not in text

    def test_ten_runs_stay_light(self, tmp_path):
        families = ["nice", "vae", "made", "gmm", "gaussian", "independent", "rectified-flow", "wgan-gp", "nice", "vae"]
        runs = image_runs(tmp_path / "a", 3, 32, 256, families)
        rng = np.random.default_rng(0)
        for run in runs:
            (run / "snapshots").mkdir()
            for step in range(6):
                np.savez(run / "snapshots" / f"step-{step:06d}.npz", x=rng.integers(0, 256, (8, 3, 32, 32), dtype=np.uint8))
            np.savez(run / "trajectory.npz", x=rng.integers(0, 256, (8, 8, 3, 32, 32), dtype=np.uint8))
        out = write_report(runs, tmp_path / "a.html")
        read(out)
        assert out.stat().st_size < 5e6
        out = write_report(table_runs(tmp_path / "b", families, n=1000), tmp_path / "b.html")
        text, _ = read(out)
        assert out.stat().st_size < 5e6
        assert "nice (8-nice)" in text
        out = write_report(shape_runs(tmp_path / "c", Signal(2, 5000), set(families), labelled=True), tmp_path / "c.html")
        assert out.stat().st_size < 5e6

    def test_many_columns_are_cut_and_said(self, tmp_path):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(50, 40))
        x[0, 0] = np.inf
        run = make(tmp_path / "run", "nice", Schema(Vector(40)), real=(rng.normal(size=(50, 40)), {}), samples=(x, {}))
        text, _ = read(write_report([run], tmp_path / "r.html"))
        assert "The first 12 of 40 columns are shown." in text
        assert "The first 30 of 40 columns are shown." in text

    def test_a_run_of_failed_families_only(self, tmp_path):
        run = failed(tmp_path / "run", "nice", "ring", "it broke")
        text, _ = read(write_report([run], tmp_path / "r.html"))
        assert "it broke" in text
        assert "No model was fitted." in text

    def test_encoders_have_no_samples(self, tmp_path):
        target = Column("kind", ColumnKind.CATEGORY, ("a", "b"), dtype="object|str")
        real = (np.random.default_rng(0).normal(size=(20, 3)), {"kind": np.zeros(20)})
        run = make(tmp_path / "run", "classifier", Schema(Vector(3), (), target), real=real, metrics=[metric("accuracy", 0.9)])
        text, _ = read(write_report([run], tmp_path / "r.html"))
        assert 'id="samples"' not in text
        assert "pushforward predict" in text


class TestLeaderboard:
    def rows(self, tmp_path, *cells):
        schema = Schema(Vector(3))
        real = (np.random.default_rng(0).normal(size=(20, 3)), {})
        families = ["nice", "made", "vae", "rectified-flow", "gmm"]
        runs = [
            make(tmp_path / f, f, schema, real=real, samples=real, metrics=[m] if m else None)
            for f, m in zip(families, cells, strict=False)
        ]
        text, _ = read(write_report(runs, tmp_path / "r.html"))
        return text[text.index('class="board"') : text.index("</table>", text.index('class="board"'))], text

    def test_only_values_of_one_kind_are_ranked(self, tmp_path):
        board, text = self.rows(
            tmp_path,
            metric("nats", 3.0, kind="exact"),
            metric("nats", 4.0, kind="exact"),
            metric("nats", 1.0, kind="lower_bound"),
            metric("nats", 2.0, kind="ode"),
        )
        assert re.findall(r"<b>(.*?)</b>", board) == ["3.000"]
        for kind in ("exact", "ode", "lower_bound"):
            assert f'class="badge {kind}"' in board
        assert "may understate" in text
        assert "not ranked against each other" in text
        assert board.index("nice") < board.index("rectified-flow") < board.index("vae")

    def test_notes_say_whose_they_are(self, tmp_path):
        draws = [metric("nats", v, kind="lower_bound", note=f"bound of {n}") for v, n in ((3.0, "8 draws"), (4.0, "1 draw"))]
        _, text = self.rows(tmp_path, *draws)
        assert "bound of 8 draws (nice)" in text
        assert "bound of 1 draw (made)" in text
        _, text = self.rows(tmp_path / "same", draws[0], draws[0])
        assert "bound of 8 draws<" in text

    def test_costs_are_shown_once(self, tmp_path):
        board, _ = self.rows(tmp_path, metric("parameters", 12345.0), metric("samples_per_second", 1e4))
        assert board.count("parameters") == 1
        assert board.count("samples/s") == 1
        assert board.count("10,000") == 1

    def test_higher_is_better_and_nothing_is_neither(self, tmp_path):
        board, _ = self.rows(tmp_path, metric("p", 0.2, better="higher"), metric("p", 0.7, better="higher"))
        assert re.findall(r"<b>(.*?)</b>", board) == ["0.7000"]
        board, _ = self.rows(tmp_path / "b", metric("p", 0.2, better=None), metric("p", 0.7, better=None))
        assert "<b>" not in board

    def test_what_is_not_finite_never_wins(self, tmp_path):
        board, _ = self.rows(
            tmp_path, metric("p", float("-inf")), metric("p", float("nan")), metric("p", 2.0), metric("p", 3.0), None
        )
        assert re.findall(r"<b>(.*?)</b>", board) == ["2.000"]
        assert "not a number" in board

    @pytest.mark.parametrize("value", [0.0, -0.0, 0, 1e-12, 1e300, -5e-324, 12345.678, 1, None])
    @pytest.mark.parametrize("error", [None, 0.0, 1e-30, 1e30, float("nan")])
    def test_any_value_can_be_shown(self, value, error):
        assert number(value, error)

    def test_digits_follow_the_standard_error(self, tmp_path):
        board, _ = self.rows(tmp_path, metric("p", -93.14159, error=0.52), metric("p", 93.14159))
        assert "−93.14" in board
        assert "± 0.52" in board
        assert "93.14<" in board


class TestDiagnosis:
    @pytest.mark.parametrize("noise", [0.0, 0.15])
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(
        ("shape", "kind"),
        [
            ("overfitting", "overfitting"),
            ("falling", "underfitting"),
            ("exponential", "converged"),
            ("unstable", "unstable"),
        ],
    )
    def test_shapes(self, shape, kind, noise, seed):
        assert diagnose(curve(shape, noise=noise, seed=seed)).kind == kind

    def test_advice(self):
        assert "weight decay" in diagnose(curve("overfitting")).sentence
        assert "train longer" in diagnose(curve("falling")).sentence

    def test_pure_noise_is_converged(self):
        rng = np.random.default_rng(0)
        for _ in range(20):
            records = [{"step": i, "train": float(rng.normal()), "validation": float(rng.normal())} for i in range(1, 41)]
            assert diagnose(records).kind == "converged"

    def test_diverged_and_recovered(self):
        records = curve()
        records[20]["train"] = float("nan")
        assert diagnose(records).kind == "converged"
        records[-1]["train"] = float("nan")
        assert diagnose(records).kind == "diverged"
        records = curve()
        records[-1]["validation"] = float("inf")
        assert diagnose(records).kind == "diverged"

    def test_short(self):
        assert diagnose([]).kind == "short"
        assert diagnose(curve(n=3)).kind == "short"
        assert diagnose([{"event": "rollback", "step": 3}]).kind == "short"

    def test_fitted_directly(self):
        records = [{"step": i, "train": v, "validation": v, "learning_rate": None} for i, v in ((1, 129.0), (2, 129.0))]
        assert diagnose(records).kind == "converged"
        assert "one pass" in diagnose(records[:1]).sentence
        records[1]["validation"] = 90.0
        assert diagnose(records).kind == "short"

    def test_without_validation(self):
        assert diagnose(curve(validation=False)).kind == "converged"
        assert diagnose(curve("falling", validation=False)).kind == "underfitting"

    def test_distances(self):
        found = diagnose(curve("falling", criterion="sliced_wasserstein"))
        assert found.kind == "underfitting"
        assert "distance" in found.sentence
        assert diagnose(curve("overfitting", criterion="sliced_wasserstein")).kind == "unstable"

    def test_constant_loss(self):
        records = [{"step": i, "train": 1.0, "validation": 1.0} for i in range(1, 20)]
        assert diagnose(records).kind == "converged"

    def test_scale_and_shift_change_nothing(self):
        for shape in ("overfitting", "falling", "exponential"):
            records = curve(shape, noise=0.1)
            for m in records:
                m["train"], m["validation"] = 1e4 * m["train"] - 7e5, 1e4 * m["validation"] - 7e5
            assert diagnose(records).kind == diagnose(curve(shape, noise=0.1)).kind


class TestDamage:
    @pytest.mark.parametrize(
        "name", ["recipe.json", "metrics.jsonl", "preview.npz", "samples.npz", "evaluation.json", "density.npz"]
    )
    def test_damaged_files_are_named(self, tmp_path, name):
        run = plane_runs(tmp_path, ("nice",), gan=False)[0]
        whole = (run / name).read_bytes()
        for content in (b"\x80\x04garbage", whole[: len(whole) // 2], b"[1, 2]", b""):
            if name == "metrics.jsonl" and not content:
                continue
            (run / name).write_bytes(content)
            with pytest.raises(CheckpointError) as caught:
                write_report([run], tmp_path / "r.html")
            assert name in str(caught.value)
            assert "\n" not in str(caught.value)
        assert not (tmp_path / "r.html").exists()

    @pytest.mark.parametrize("name", NEEDED)
    def test_missing_files_are_named(self, tmp_path, name):
        run = plane_runs(tmp_path, ("nice",), gan=False)[0]
        (run / name).unlink()
        with pytest.raises(CheckpointError, match=name):
            write_report([run], tmp_path / "r.html")

    def test_evaluation_and_density_may_be_absent(self, tmp_path):
        run = plane_runs(tmp_path, ("nice",), gan=False)[0]
        (run / "evaluation.json").unlink()
        (run / "density.npz").unlink()
        read(write_report([run], tmp_path / "r.html"))

    def test_pickles_are_not_read(self, tmp_path):
        run = plane_runs(tmp_path, ("nice",), gan=False)[0]
        np.savez(run / "samples.npz", x=np.array([{"a": 1}], dtype=object))
        with pytest.raises(CheckpointError, match=r"samples\.npz"):
            write_report([run], tmp_path / "r.html")

    def test_wrong_shapes(self, tmp_path):
        run = plane_runs(tmp_path, ("nice",), gan=False)[0]
        np.savez(run / "samples.npz", x=np.zeros((5, 3)))
        with pytest.raises(CheckpointError, match="expected"):
            write_report([run], tmp_path / "r.html")

    def test_codes_outside_the_vocabulary(self, tmp_path):
        run = text_runs(tmp_path, ("made",))[0]
        np.savez(run / "samples.npz", x=np.full((5, 60), 999))
        with pytest.raises(CheckpointError, match=r"samples\.npz"):
            write_report([run], tmp_path / "r.html")

    def test_newer_version(self, tmp_path):
        run = make(tmp_path / "run", "nice", Schema(Vector(3)), version=99)
        with pytest.raises(CheckpointError, match="upgrade"):
            write_report([run], tmp_path / "r.html")

    def test_other_data(self, tmp_path):
        runs = [*plane_runs(tmp_path, ("nice",), gan=False), *text_runs(tmp_path / "t", ("made",))]
        with pytest.raises(DataError, match="same data"):
            write_report(runs, tmp_path / "r.html")
        with pytest.raises(DataError):
            write_report([], tmp_path / "r.html")

    def test_an_old_report_survives_a_failure(self, tmp_path):
        run = plane_runs(tmp_path, ("nice",), gan=False)[0]
        out = write_report([run], tmp_path / "r.html")
        before = out.read_bytes()
        (run / "samples.npz").write_bytes(b"")
        with pytest.raises(PushforwardError):
            write_report([run], out)
        assert out.read_bytes() == before
