"""Help, the catalog, completion, and how long they take."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from pushforward import __version__
from pushforward.catalog import FAMILIES
from pushforward.cli import COMMANDS, command
from pushforward.cli.arguments import described, field_docs, options
from pushforward.fitting.options import Training


def python(*words, **rest):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, **rest)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_overview_names_every_command(cli, words):
    said = cli(*words)
    assert said.code == 0
    assert not said.err
    assert all(f"  {name} " in said.out for name in COMMANDS)
    assert max(len(line) for line in said.out.splitlines()) < 128


def test_version(cli):
    said = cli("--version")
    assert (said.code, said.out) == (0, f"pushforward {__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_mentions_each_option_with_a_text(cli, name):
    said = cli(name, "--help")
    assert said.code == 0
    assert not said.err
    for option in options(command(name)):
        assert option.shown in said.out, option.shown
        assert option.help, option.name
    assert cli("help", name).out == said.out


def test_help_of_fit_shows_the_options_of_the_family(cli):
    assert "--components" not in cli("fit", "--help").out
    said = cli("fit", "moons", "gmm", "--help")
    assert "--components" in said.out
    assert "--covariance" in said.out
    assert "spherical" in said.out
    assert "--hidden" in cli("fit", "moons", "--steps", "3", "nice", "--help").out


@pytest.mark.parametrize("name", FAMILIES)
def test_every_option_of_every_family_can_be_given_and_is_explained(cli, name):
    from dataclasses import fields

    config = FAMILIES[name].options
    said = cli("fit", "moons", name, "--help")
    assert said.code == 0
    for f in fields(config):
        assert f"-{f.name.replace('_', '-')}" in said.out
    assert set(described(config)) <= {f.name for f in fields(config)}


def test_texts_below_fields_are_found():
    from dataclasses import fields

    assert set(field_docs(Training)) == {f.name for f in fields(Training)}


def test_class_docstrings_are_taken_apart():
    found = described(FAMILIES["gmm"].options)
    assert found["components"].startswith("how many")
    assert found["prior"].startswith("weight, in rows")
    assert found["prior"].endswith("maximum likelihood.")
    flow = described(FAMILIES["rectified-flow"].options)
    assert flow["sampling_steps"] == "how many."
    assert flow["width"] == "channels of the net."  # said by the class it builds on


def test_models(cli):
    said = cli("models")
    assert said.code == 0
    for fam in FAMILIES.values():
        assert fam.name in said.out
        assert fam.title in said.out
        assert fam.source in said.out
    found = json.loads(cli("models", "--json").out)
    assert [entry["name"] for entry in found] == list(FAMILIES)
    gmm = next(entry for entry in found if entry["name"] == "gmm")
    assert {"title", "verbs", "density", "kinds", "conditions", "source"} <= set(gmm)
    assert gmm["density"] == "exact"


@pytest.mark.parametrize("words", [["--help"], ["models"], [], ["sample", "--help"], ["fit", "--help"]])
def test_help_imports_nothing_heavy(words):
    code = (
        "import sys; from pushforward.cli import main; main(sys.argv[1:]);"
        "print([m for m in ('torch', 'pandas', 'numpy', 'scipy', 'sklearn') if m in sys.modules], file=sys.stderr)"
    )
    done = python("-c", code, *words)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("words", [["--help"], ["models"], []])
def test_help_is_quick(words):
    resource = pytest.importorskip("resource")

    def seconds(*command):
        # of the processor: other work on the machine does not count
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python(*command).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds("-m", "pushforward", *words) for _ in range(3)) < 0.3


def test_completion_is_a_script_bash_accepts_and_it_completes(cli, tmp_path):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    script = tmp_path / "completion.sh"
    script.write_text(cli("completion", "bash").out)
    assert subprocess.run([bash, "-n", script], capture_output=True).returncode == 0

    def complete(*words):
        line = f'source "{script}"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _pushforward; printf "%s\\n" "${{COMPREPLY[@]}}"'
        done = subprocess.run([bash, "-c", line, "bash", "pushforward", *words], capture_output=True, text=True)
        assert not done.stderr
        return done.stdout.split()

    assert complete("sa") == ["sample"]
    assert "moons" in complete("fit", "mo")
    assert complete("fit", "moons", "rect") == ["rectified-flow"]
    assert "--components" in complete("fit", "moons", "gmm", "--comp")
    assert "--components" not in complete("fit", "moons", "nice", "--c")
    assert complete("fit", "moons", "gmm", "--precision", "bf") == ["bf16"]
    assert complete("compare", "moons", "gmm", "nic") == ["nice"]
    assert "--temperature" in complete("sample", "run", "--te")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_of_other_shells_names_everything(cli, tmp_path, shell):
    said = cli("completion", shell)
    assert said.code == 0
    for word in (*COMMANDS, *FAMILIES, "moons", "digits", "components", "temperature"):
        assert word in said.out
    found = shutil.which(shell)
    if found:
        script = tmp_path / f"completion.{shell}"
        script.write_text(said.out)
        assert subprocess.run([found, "-n", script], capture_output=True).returncode == 0


def test_a_reader_that_goes_away_is_no_error():
    words = [sys.executable, "-m", "pushforward", "models"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


def test_pipes_get_utf8_whatever_the_locale():
    done = subprocess.run(
        [sys.executable, "-m", "pushforward", "models"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "•" in done.stdout.decode("utf-8")
