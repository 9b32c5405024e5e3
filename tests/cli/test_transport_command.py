"""``fit --source`` and ``sample --start``: from one set of data to another."""

import numpy as np


def test_rows_of_a_file_are_carried_to_those_of_another(cli, tmp_path):
    random = np.random.default_rng(0)
    np.save(tmp_path / "left.npy", random.normal(-3, 1, (200, 2)))
    np.save(tmp_path / "right.npy", random.normal(3, 1, (300, 2)))
    words = ("--steps", "2", "--hidden", "8", "--no-report", "--quiet", "--out", tmp_path / "run")
    assert cli("fit", tmp_path / "right.npy", "transport", "--source", tmp_path / "left.npy", *words).code == 0
    moved = tmp_path / "moved.npy"
    assert cli("sample", tmp_path / "run", "--start", tmp_path / "left.npy", "--out", moved).code == 0
    assert np.load(moved).shape == (200, 2)
    bare = cli("fit", tmp_path / "right.npy", "transport", "--out", tmp_path / "other")
    assert bare.code == 2
    assert "--source" in bare.err
    assert not (tmp_path / "other").exists()
    noise = cli("fit", tmp_path / "right.npy", "edm", "--source", tmp_path / "left.npy", "--out", tmp_path / "other")
    assert noise.code == 2
    assert "fit the family transport" in noise.err
    counted = cli("sample", tmp_path / "run", "--start", tmp_path / "left.npy", "-n", "3", "--out", tmp_path / "few.npy")
    assert counted.code == 2
    assert "leave out the number" in counted.err
