"""The known data sets: what each is, where it lies below ``PUSHFORWARD_DATA``, and its public home.

Checksums are the SHA-256 of the files as published; where a home publishes none, the columns and rows of the table are checked
instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from pushforward.data import toys

TOY_POINTS = 10_000

_IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@dataclass(frozen=True)
class Remote:
    """One file at its public home. ``sha256`` is None where none is published; then ``header`` and ``rows`` of a CSV are
    what it must have."""

    url: str
    sha256: str | None = None
    header: tuple[str, ...] = ()
    rows: int = 0

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Bundled:
    """One data set: what it is, where it lies below ``PUSHFORWARD_DATA``, and the files of its public home, if any."""

    about: str
    kind: str
    local: str = ""
    remote: tuple[Remote, ...] = ()


def _idx_remotes(home: str, sums: tuple[str, str, str, str]) -> tuple[Remote, ...]:
    return tuple(Remote(f"{home}/{file}", digest) for file, digest in zip(_IDX_FILES, sums, strict=True))


_MNIST_SUMS = (
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)

_DIAMONDS = ("carat", "cut", "color", "clarity", "depth", "table", "price", "x", "y", "z")
_PENGUINS = (
    "species",
    "island",
    "bill_length_mm",
    "bill_depth_mm",
    "flipper_length_mm",
    "body_mass_g",
    "sex",
    "year",
)

CATALOG: dict[str, Bundled] = {
    "digits": Bundled("1797 handwritten digits, 8×8, 17 grey levels, with labels (ships with scikit-learn)", "image"),
    "mnist": Bundled(
        "70 000 handwritten digits, 28×28 grey, with labels; 10 000 are the test set",
        "image",
        "mnist/mnist.npz",
        _idx_remotes("https://ossci-datasets.s3.amazonaws.com/mnist", _MNIST_SUMS),
    ),
    "fashion-mnist": Bundled(
        "70 000 pictures of clothing, 28×28 grey, with labels; 10 000 are the test set",
        "image",
        "fashion_mnist/fashion_mnist.npz",
        _idx_remotes(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
            (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
    ),
    "binarized-mnist": Bundled(
        "70 000 handwritten digits, 28×28 black and white, the fixed binarization; 10 000 are the test set",
        "image",
        "binarized_mnist/binarized_mnist.npz",
    ),
    "dynamic-mnist": Bundled(
        "70 000 handwritten digits, 28×28 black and white, drawn anew from the grey ones at each training step",
        "image",
        "mnist/mnist.npz",
        _idx_remotes("https://ossci-datasets.s3.amazonaws.com/mnist", _MNIST_SUMS),
    ),
    "emoji": Bundled(
        "7572 emoji, 32×32 colour, in two drawing styles and ten categories, with captions", "image", "emoji/emoji32.npz"
    ),
    "spoken-digits": Bundled(
        "3000 recordings of spoken digits, 8 kHz, with labels and speakers; 300 are the test set",
        "signal",
        "fsdd/fsdd8k.npz",
    ),
    "modelnet": Bundled(
        "882 airplanes and bathtubs as sets of 2048 points in space, with labels; 150 are the test set",
        "points",
        "modelnet/modelnet_points.npz",
    ),
    "diamonds": Bundled(
        "53 940 diamonds: price, size and grades",
        "table",
        "tables/diamonds.parquet",
        (
            Remote(
                "https://raw.githubusercontent.com/tidyverse/ggplot2/main/data-raw/diamonds.csv", header=_DIAMONDS, rows=53_940
            ),
        ),
    ),
    "penguins": Bundled(
        "344 penguins: species, island, sex and measurements, some missing",
        "table",
        "tables/penguins.csv",
        (
            Remote(
                "https://raw.githubusercontent.com/allisonhorst/palmerpenguins/main/inst/extdata/penguins.csv",
                header=_PENGUINS,
                rows=344,
            ),
        ),
    ),
    "flights": Bundled("337 000 flights from New York in 2013, some values missing", "table", "tables/flights.parquet"),
    "shakespeare": Bundled(
        "1.1 million characters of Shakespeare's plays",
        "text",
        "text/tinyshakespeare.txt",
        (
            Remote(
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            ),
        ),
    ),
} | {name: Bundled(f"{TOY_POINTS} points in the plane: {toy.about}", "toy") for name, toy in toys.TOYS.items()}

NAMES: dict[str, str] = {name: entry.about for name, entry in CATALOG.items()}
