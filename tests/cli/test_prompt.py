"""The rest of a text from the command line, and how sharp samples of a text are."""

from pathlib import Path


def verse(cli, family="ngram", *more, line="the rain falls on the sea and the sea takes the rain\n"):
    Path("verse.txt").write_text(line * 40)
    fitted = cli("fit", "verse.txt", family, "--length", "24", "--out", "run", "--no-report", "--quiet", *more)
    assert fitted.code == 0


def test_prompts_are_continued(cli):
    verse(cli)
    said = cli("complete", "run", "--prompt", "the rain fal", "and the sea", "--json")
    assert said.code == 0
    first, second = said.json if isinstance(said.json, list) else said.json["rows"]
    assert len(first) == len(second) == 24
    assert first.startswith("the rain falls on the ")
    assert second.startswith("and the sea")
    again = cli("complete", "run", "--prompt", "the rain fal", "and the sea", "--json", "--seed", "1")
    assert again.code == 0
    assert again.out != said.out or first == second


def test_a_network_continues_them_too(cli):
    verse(cli, "gpt", "--steps", "2", "--width", "16", "--depth", "1", "--heads", "2")
    said = cli("complete", "run", "--prompt", "the", "--out", "more.txt")
    assert said.code == 0
    assert Path("more.txt").read_text().startswith("the")


def test_texts_are_continued_beyond_the_learned_length(cli):
    line = "abcdefghijklmnopqrstuvwxyz\n"
    verse(cli, line=line)
    said = cli("complete", "run", "--prompt", line * 2, "defg", "--length", "150", "--options", "top_k=1", "--json")
    assert said.code == 0
    assert said.json["rows"] == [(line * 6)[:150], (line * 6)[3:153]]
    short = cli("complete", "run", "--prompt", line, "--length", "9", "--json")
    assert short.json["rows"] == ["abcdefghi"]
    plain = cli("complete", "run", "--prompt", "b", "--json")
    same = cli("complete", "run", "--prompt", "b", "--length", "24", "--json")
    assert plain.json["rows"] == same.json["rows"]
    for words in (["--prompt", "b", "--length", "0"], ["verse.txt", "--length", "30"]):
        said = cli("complete", "run", *words)
        assert said.code == 2
        assert "length" in said.err


def test_prompts_that_do_not_fit(cli):
    verse(cli)
    for words, about in (
        (["--prompt", "x" * 30], "at most 24"),
        (["--prompt", "the zebra"], "'z'"),
        ([], "--prompt"),
        (["verse.txt", "--prompt", "the"], "--prompt"),
    ):
        said = cli("complete", "run", *words)
        assert said.code == 2
        assert about in said.err, (words, said.err)


def test_samples_are_as_sharp_as_asked(cli):
    verse(cli)
    said = cli("sample", "run", "-n", "5", "--temperature", "0", "--out", "sharp.json")
    assert said.code == 0
    again = cli("sample", "run", "-n", "5", "--options", "top_k=1", "--out", "top.json")
    assert again.code == 0
    assert Path("sharp.json").read_text() == Path("top.json").read_text()


def test_beginnings_are_continued_as_sharply_as_asked(cli):
    for family, more in (("ngram", ()), ("gpt", ("--steps", "2", "--width", "16", "--depth", "1", "--heads", "2"))):
        verse(cli, family, "--force", *more)
        rests = set()
        for seed, how in (("0", "top_k=1"), ("1", "top_k=1"), ("2", "temperature=0")):
            said = cli("complete", "run", "--prompt", "the s", "--seed", seed, "--options", how, "--json")
            assert said.code == 0, said.err
            rests.add(*said.json["rows"])
        assert len(rests) == 1
        said = cli("complete", "run", "--prompt", "the", "--options", "top_p=2")
        assert said.code == 2
        assert "top_p lies in" in said.err


def test_what_follows_a_gap_is_completed_by_the_model_as_it_is(cli):
    import numpy as np

    verse(cli)
    np.save("there.npy", np.tile(np.arange(24) > 3, (88, 1)))
    said = cli("complete", "run", "verse.txt", "--observed", "there.npy", "--options", "temperature=0.5", "--out", "o.txt")
    assert said.code == 2
    assert "after a gap" in said.err, said.err
