import io
import os

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from pushforward.core.errors import DataError
from pushforward.core.schema import ColumnKind, Image
from pushforward.data import folders, imagefiles, images
from pushforward.data.dataset import TensorStore

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, size=shape, dtype=np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(array).save(path, **options)
    return path


class TestFolder:
    def test_grey(self, tmp_path):
        a, b = pixels(4, 5), pixels(4, 5)
        save(tmp_path / "b.png", b)
        save(tmp_path / "a.PNG", a, format="PNG")
        data = folders.open_folder(tmp_path)
        assert data.schema.example == Image(1, 4, 5)
        assert data.rows().x.dtype == torch.uint8
        np.testing.assert_array_equal(data.rows().x[:, 0], [a, b])
        assert data.schema.extra == {}
        assert data.notes == ()
        assert data.name == tmp_path.name

    def test_any_colour_makes_three_channels(self, tmp_path):
        grey, colour = pixels(3, 3), pixels(3, 3, 3)
        save(tmp_path / "a.png", grey)
        save(tmp_path / "b.bmp", colour)
        x = folders.open_folder(tmp_path).rows().x.numpy()
        np.testing.assert_array_equal(x[0], np.stack([grey] * 3))
        np.testing.assert_array_equal(x[1], colour.transpose(2, 0, 1))

    def test_alpha_counts_where_it_is_real(self, tmp_path):
        see_through, opaque = pixels(3, 3, 4), pixels(3, 3, 4)
        see_through[0, 0, 3], opaque[..., 3] = 7, 255
        save(tmp_path / "a.png", opaque)
        assert folders.open_folder(tmp_path).schema.example.channels == 3
        save(tmp_path / "b.png", see_through)
        grey = pixels(3, 3)
        save(tmp_path / "c.png", grey)
        x = folders.open_folder(tmp_path).rows().x.numpy()
        np.testing.assert_array_equal(x[:2].transpose(0, 2, 3, 1), [opaque, see_through])
        np.testing.assert_array_equal(x[2], np.stack([grey] * 3 + [np.full((3, 3), 255)]))

    def test_palettes(self, tmp_path):
        palette = Pillow.new("P", (2, 2))
        palette.putpalette([255, 0, 0, 0, 255, 0])
        palette.putdata([0, 1, 1, 0])
        palette.save(tmp_path / "a.png")
        assert folders.open_folder(tmp_path).schema.example.channels == 3
        palette.save(tmp_path / "a.png", transparency=1)
        x = folders.open_folder(tmp_path).rows().x
        assert x.shape == (1, 4, 2, 2)
        assert x[0, 3].tolist() == [[255, 0], [0, 255]]
        assert x[0, :3, 0, 0].tolist() == [255, 0, 0]

    def test_deep_and_bilevel_grey(self, tmp_path):
        save(tmp_path / "a.png", np.array([[0, 257], [65535, 128 * 257]], np.uint16))
        Pillow.fromarray(np.array([[True, False], [False, True]])).save(tmp_path / "b.tif")
        Pillow.fromarray(np.array([[0, 0.2], [0.4, 1]], np.float32)).save(tmp_path / "c.tif")
        x = folders.open_folder(tmp_path).rows().x
        assert x[:, 0].tolist() == [[[0, 1], [255, 128]], [[255, 0], [0, 255]], [[0, 51], [102, 255]]]

    def test_grey_asked_for_or_refused(self, tmp_path):
        save(tmp_path / "a.png", np.full((2, 2, 3), 90, np.uint8))
        clear = np.zeros((2, 2, 4), np.uint8)
        save(tmp_path / "b.png", clear)
        x = folders.open_folder(tmp_path, grey=True).rows().x
        assert x.shape == (2, 1, 2, 2)
        assert x[:, 0, 0, 0].tolist() == [90, 255]
        os.remove(tmp_path / "b.png")
        save(tmp_path / "a.png", pixels(2, 2))
        assert folders.open_folder(tmp_path, grey=False).schema.example.channels == 3

    @pytest.mark.parametrize("suffix", ["jpg", "tif"])
    def test_orientation_is_honoured(self, tmp_path, suffix):
        exif = Pillow.Exif()
        exif[0x0112] = 6  # to be shown turned a quarter clockwise
        array = np.zeros((8, 16), np.uint8)
        array[:, :8] = 255
        save(tmp_path / f"a.{suffix}", array, exif=exif)
        save(tmp_path / "b.png", np.zeros((16, 8), np.uint8))
        data = folders.open_folder(tmp_path)
        assert data.schema.example.shape == (1, 16, 8)
        x = data.rows().x[0, 0].float()
        assert x[:8].mean() > 250
        assert x[8:].mean() < 5

    def test_labels(self, tmp_path):
        for name in ("dog/1.png", "cat/2.png", "cat/deep/3.png"):
            save(tmp_path / name, pixels(2, 2))
        data = folders.open_folder(tmp_path)
        (column,) = data.schema.extra["columns"]
        assert (column.name, column.kind, column.categories, column.missing) == (
            "label",
            ColumnKind.CATEGORY,
            ("cat", "dog"),
            False,
        )
        assert data.rows().columns["label"].tolist() == [0, 0, 1]
        assert data.rows().columns["label"].dtype == torch.float64
        save(tmp_path / "loose.png", pixels(2, 2))
        data = folders.open_folder(tmp_path)
        assert data.schema.extra["columns"][0].missing
        assert data.rows().columns["label"].tolist() == [0, 0, 1, 2]

    def test_other_files_are_skipped_and_noted(self, tmp_path):
        save(tmp_path / "a" / "1.png", pixels(2, 2))
        for name in ("a/.DS_Store", "a/Thumbs.db", "meta.json", "a/._1.png"):
            (tmp_path / name).write_text("{}")
        save(tmp_path / ".hidden" / "1.png", pixels(9, 9))
        (tmp_path / "a" / "loop").symlink_to(tmp_path)
        data = folders.open_folder(tmp_path)
        assert len(data) == 1
        (note,) = data.notes
        assert "(4)" in note
        assert "Thumbs.db" in note

    def test_mixed_sizes(self, tmp_path):
        save(tmp_path / "a.png", pixels(4, 6))
        save(tmp_path / "b.png", pixels(4, 6))
        save(tmp_path / "odd.png", pixels(9, 3))
        with pytest.raises(DataError, match=r"4×6 \(2, e.g. a.png\), 9×3 \(1, e.g. odd.png\).*--resize N"):
            folders.open_folder(tmp_path)
        assert folders.open_folder(tmp_path, resize=3).schema.example.shape == (1, 3, 3)
        assert folders.open_folder(tmp_path, resize=(2, 5)).schema.example.shape == (1, 2, 5)

    def test_resizing_keeps_the_centre_and_does_not_alias(self, tmp_path):
        wide = np.zeros((16, 48), np.uint8)
        wide[:, 16:32] = 200
        wide[:, :8] = 255
        save(tmp_path / "a.png", wide)
        x = folders.open_folder(tmp_path, resize=8).rows().x[0, 0]
        assert x[:, 2:-2].unique().tolist() == [200]
        assert x.min() > 150
        stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))
        save(tmp_path / "a.png", stripes)
        x = folders.open_folder(tmp_path, resize=8).rows().x[0, 0].float()
        assert (x[1:-1, 1:-1] - 127.5).abs().max() < 20

    def test_a_damaged_file_is_named(self, tmp_path):
        for i in range(9):
            save(tmp_path / f"{i}.png", pixels(8, 8))
        (tmp_path / "bad.png").write_bytes(b"no image")
        with pytest.raises(DataError, match=r"bad.png cannot be read as an image: remove or replace it"):
            folders.open_folder(tmp_path)
        whole = (tmp_path / "0.png").read_bytes()
        (tmp_path / "bad.png").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"bad.png cannot be read"):
            folders.open_folder(tmp_path, resize=4)
        (tmp_path / "bad.png").write_bytes(b"")
        with pytest.raises(DataError, match=r"bad.png cannot be read"):
            folders.open_folder(tmp_path)

    def test_a_bomb_is_refused(self, tmp_path, monkeypatch):
        save(tmp_path / "big.png", np.zeros((40, 40), np.uint8))
        monkeypatch.setattr(imagefiles, "MAX_PIXELS", 1000)
        with pytest.raises(DataError, match=r"big.png holds 40×40"):
            folders.open_folder(tmp_path)

    def test_nothing_to_read(self, tmp_path):
        with pytest.raises(DataError, match=r"no images in .*found nothing"):
            folders.open_folder(tmp_path)
        (tmp_path / "a.txt").write_text("a")
        with pytest.raises(DataError, match=r"found only a\.txt"):
            folders.open_folder(tmp_path)
        with pytest.raises(DataError, match="is no folder"):
            folders.open_folder(tmp_path / "a.txt")
        with pytest.raises(DataError, match="there is no folder"):
            folders.open_folder(tmp_path / "none")
        with pytest.raises(DataError, match="resize is 0"):
            folders.open_folder(tmp_path, resize=0)
        with pytest.raises(DataError, match="resize is"):
            folders.open_folder(tmp_path, resize=(1, 2, 3))

    @pytest.mark.parametrize("resize", [None, 3])
    def test_a_lazy_folder_gives_the_same_rows(self, tmp_path, monkeypatch, resize):
        save(tmp_path / "x" / "1.png", pixels(4, 4))
        save(tmp_path / "y" / "2.png", pixels(4, 4, 3))
        alpha = pixels(4, 4, 4)
        save(tmp_path / "y" / "3.png", alpha)
        held = folders.open_folder(tmp_path, resize=resize)
        monkeypatch.setattr(folders, "IN_MEMORY", 40)
        lazy = folders.open_folder(tmp_path, resize=resize)
        assert isinstance(held.store, TensorStore)
        assert isinstance(lazy.store, folders.FolderStore)
        assert lazy.schema == held.schema
        at = np.array([2, 0, 1])
        assert torch.equal(lazy.rows(at).x, held.rows(at).x)
        assert torch.equal(lazy.rows(at).columns["label"], held.rows(at).columns["label"])
        save(tmp_path / "x" / "1.png", pixels(5, 5))
        if resize is None:
            with pytest.raises(DataError, match="is now 5×5"):
                lazy.rows(np.array([0]))


class TestArray:
    @pytest.mark.parametrize(
        ("shape", "expected"),
        [
            ((2, 5, 6), (1, 5, 6)),
            ((2, 5, 6, 1), (1, 5, 6)),
            ((2, 5, 6, 4), (4, 5, 6)),
            ((2, 3, 5, 6), (3, 5, 6)),
            ((2, 1, 4, 4), (1, 4, 4)),
            ((2, 4, 4, 1), (1, 4, 4)),
            ((2, 3, 3, 3), (3, 3, 3)),
        ],
    )
    def test_layouts(self, shape, expected):
        data = images.from_array(pixels(*shape))
        assert data.schema.example == Image(*expected)
        assert data.rows().x.shape == (2, *expected)

    def test_values(self):
        assert images.from_array(np.array([[[0.0, 0.5, 1.0]]])).rows().x.flatten().tolist() == [0, 128, 255]
        assert images.from_array(np.array([[[0, 1, 1]]])).schema.example.levels == 2
        assert images.from_array(np.array([[[0.0, 1.0]]])).rows().x.flatten().tolist() == [0, 1]
        assert images.from_array(np.array([[[True, False]]])).rows().x.flatten().tolist() == [1, 0]
        assert images.from_array(np.array([[[0.0, 16.0]]]), levels=17).rows().x.flatten().tolist() == [0, 16]
        assert images.from_array(torch.tensor([[[0, 200]]])).rows().x.flatten().tolist() == [0, 200]
        assert images.from_array(torch.tensor([[[0, 0.5]]], dtype=torch.bfloat16)).rows().x.flatten().tolist() == [0, 128]

    def test_the_pixels_are_copied(self):
        array = pixels(3, 2, 2)
        data = images.from_array(array)
        before = data.rows().x.clone()
        array[:] = 0
        assert torch.equal(data.rows().x, before)

    @pytest.mark.parametrize(
        ("array", "levels", "message"),
        [
            (np.zeros((3, 3)), None, r"shape \(3, 3\)"),
            (np.zeros((3, 5, 5, 2)), None, r"shape \(3, 5, 5, 2\)"),
            (np.array([[[1.0]], [[np.nan]]]), None, "image 1 holds NaN"),
            (np.array([[[1.0]], [[np.inf]]]), None, "image 1 holds NaN or infinite"),
            (np.array([[[5]], [[-1]]]), None, "image 1 holds negative pixels"),
            (np.array([[[256]]]), None, "the pixels reach 256"),
            (np.array([[[17]]]), 17, "expected whole numbers 0 to 16"),
            (np.array([[[1.5]]]), None, "fractions"),
            (np.array([[["a"]]]), None, "dtype"),
            (np.zeros((0, 2, 2)), None, "empty"),
            (np.zeros((1, 2, 2)), 1, "levels is 1"),
            ([np.zeros((2, 2)), np.zeros((3, 2))], None, "no array"),
        ],
    )
    def test_what_does_not_fit(self, array, levels, message):
        with pytest.raises(DataError, match=message):
            images.from_array(array, levels=levels)

    def test_side_columns_and_test_rows(self):
        columns = {
            "label": np.array([7, 3, 7], np.uint8),
            "set": ["b", "a", "b"],
            "part": np.array(["x", None, "x"], dtype=object),
        }
        data = images.from_array(pixels(3, 2, 2), columns, name="three", test=[2])
        label, kind, part = data.schema.extra["columns"]
        assert label.categories == (3, 7)
        assert all(type(c) is int for c in label.categories)
        assert kind.categories == ("a", "b")
        assert all(type(c) is str for c in kind.categories)
        assert (part.categories, part.missing) == (("x",), True)
        rows = data.store.take(np.arange(3))
        assert {k: v.tolist() for k, v in rows.columns.items()} == {"label": [1, 0, 1], "set": [1, 0, 1], "part": [0, 1, 0]}
        assert data.index.tolist() == [0, 1]
        assert data.test.tolist() == [2]
        assert data.name == "three"

    def test_bad_side_columns(self):
        for column, message in (
            (["a"], r"shape \(1,\)"),
            ([1.5, 2.5], "float"),
            ([[1], [2]], r"\(2, 1\)"),
            ([None] * 2, "nothing"),
        ):
            with pytest.raises(DataError, match=message):
                images.from_array(pixels(2, 2, 2), {"c": column})
        with pytest.raises(DataError, match="from 5 to 5"):
            images.from_array(pixels(2, 2, 2), test=[5])


class TestCodes:
    @pytest.mark.parametrize(("channels", "levels"), [(1, 256), (3, 256), (4, 256), (1, 17), (3, 2)])
    def test_decode_undoes_encode(self, channels, levels):
        kind = Image(channels, 5, 6, levels)
        x = torch.from_numpy(RNG.integers(0, levels, size=(3, *kind.shape), dtype=np.uint8))
        raw = images.decode(kind, x)
        assert raw.shape == ((3, 5, 6) if channels == 1 else (3, 5, 6, channels))
        assert torch.equal(images.encode(kind, raw), x)
        assert torch.equal(images.encode(kind, x), x)
        assert torch.equal(images.encode(kind, list(raw)), x)
        assert torch.equal(images.encode(kind, [Pillow.fromarray(p) for p in images.to_display(kind, x)]), x)
        assert torch.equal(images.encode(kind, (x / (levels - 1)).double()), x)

    def test_floats_are_rounded_and_clamped(self):
        kind = Image(1, 1, 3, 17)
        assert images.decode(kind, torch.tensor([[[[-1.0, 3.6, 99.0]]]])).tolist() == [[[0, 4, 16]]]
        assert images.to_display(kind, torch.tensor([[[[0, 8, 16]]]])).tolist() == [[[0, 128, 255]]]

    def test_pillow_images_keep_what_they_have(self):
        kind = Image(3, 2, 2)
        grey = Pillow.fromarray(pixels(2, 2))
        x = images.encode(kind, [grey, pixels(2, 2, 3)])
        assert x.shape == (2, 3, 2, 2)
        assert torch.equal(x[0, 0], x[0, 2])
        assert images.encode(kind, grey).shape == (1, 3, 2, 2)
        assert images.encode(kind, []).shape == (0, 3, 2, 2)

    def test_what_does_not_fit(self):
        kind = Image(1, 4, 6)
        with pytest.raises(DataError, match=r"shape \(2, 6, 4\).*4×6 pixels \(height×width\) and 1 channel"):
            images.encode(kind, pixels(2, 6, 4))
        with pytest.raises(DataError, match=r"image 1 has 4×5 pixels and 1 channel: expected 4×6"):
            images.encode(kind, [Pillow.fromarray(pixels(4, 6)), Pillow.fromarray(pixels(4, 5))])
        with pytest.raises(DataError, match="3 channels"):
            images.encode(kind, [Pillow.fromarray(pixels(4, 6, 3))])
        with pytest.raises(DataError, match="image 1: found"):
            images.encode(kind, [pixels(4, 6), pixels(4, 5)])
        with pytest.raises(DataError, match="0 to 1"):
            images.encode(Image(1, 2, 2, 2), np.full((1, 2, 2), 255))
        with pytest.raises(DataError, match="found codes"):
            images.decode(kind, torch.zeros(1, 4, 6))


class TestOutput:
    def test_grid(self):
        kind = Image(1, 2, 3)
        sheet = images.grid(kind, torch.zeros(5, 1, 2, 3, dtype=torch.uint8))
        assert sheet.shape == (2 * 3 + 1, 3 * 4 + 1)
        assert (sheet[0] == 255).all()
        assert (sheet[1:3, 1:4] == 0).all()
        assert (sheet[4:6, 9:12] == 255).all()
        wide = images.grid(Image(3, 2, 3), torch.zeros(5, 3, 2, 3, dtype=torch.uint8), columns=5, pad=0)
        assert wide.shape == (2, 15, 3)
        assert not wide.any()
        with pytest.raises(DataError, match="no images"):
            images.grid(kind, torch.zeros(0, 1, 2, 3))
        with pytest.raises(DataError, match="columns is -1"):
            images.grid(kind, torch.zeros(2, 1, 2, 3), columns=-1)

    @pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 3), (3, 4, 4)])
    def test_png(self, tmp_path, shape):
        array = pixels(*shape)
        images.save_png(array, tmp_path / "a.png")
        file = io.BytesIO()
        images.save_png(array, file)
        for source in (tmp_path / "a.png", file):
            np.testing.assert_array_equal(np.asarray(Pillow.open(source)), array.squeeze())

    def test_png_refuses(self, tmp_path):
        for array in (np.zeros((2, 2)), np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2), np.uint8)):
            with pytest.raises(DataError, match="found"):
                images.save_png(array, tmp_path / "a.png")


def test_resized():
    data = images.from_array(np.eye(6, dtype=int)[None].repeat(3, 0), {"label": [1, 2, 3]}, test=[0])
    small = images.resized(data, 3)
    assert small.schema.example == Image(1, 3, 3, 256)
    assert small.test.tolist() == [0]
    assert small.store.columns is data.store.columns
    assert "2 levels" in small.notes[0]
    assert images.resized(data, 6) is data
