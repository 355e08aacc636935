"""Label images move with their images, mix no classes, and are found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darwinc.data import InputSpec, Samples, open_data
from darwinc.errors import InvalidData

Array = np.ndarray[Any, Any]


def spec(height: int, width: int) -> InputSpec:
    return InputSpec("x", np.dtype("float32"), ("N", 3, height, width))


def save(path: Path, values: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def pair(folder: Path, name: str, mask: Array) -> None:
    """A red image as bright as the classes of its mask."""
    image = np.zeros((*mask.shape, 3), np.uint8)
    image[..., 0] = mask
    save(folder / "images" / f"{name}.png", image)
    save(folder / "masks" / f"{name}.png", mask)


def opened(folder: Path, height: int = 16, width: int = 16, preprocess: str = "none") -> Samples:
    return open_data(str(folder / "images"), [spec(height, width)], labels=str(folder / "masks"), preprocess=preprocess)


def labels_of(samples: Samples) -> Array:
    assert samples.labels is not None
    return samples.labels


def test_masks_have_the_classes_of_their_images(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("b", "sub/a", "c"):
        pair(tmp_path, name, generator.integers(0, 20, (16, 16), dtype=np.uint8))
    samples = opened(tmp_path)
    batch = next(samples.batches(8))
    assert batch.labels is not None
    assert batch.labels.dtype == np.uint8
    np.testing.assert_array_equal(batch.feed["x"][:, 0], batch.labels)
    part = next(opened(tmp_path).take([2, 0]).batches(2))
    assert part.labels is not None
    np.testing.assert_array_equal(part.feed["x"][:, 0], part.labels)


@pytest.mark.parametrize("preprocess", ["none", "none,fit=stretch", "none,resize=20", "none,margin=1.25"])
def test_masks_are_resized_and_cut_like_their_images(tmp_path: Path, preprocess: str) -> None:
    """Where the image isn't blended between two classes, its mask agrees with it."""
    mask = np.zeros((40, 64), np.uint8)
    mask[:, 27:] = 200
    mask[:20, :8] = 100
    pair(tmp_path, "a", mask)
    samples = opened(tmp_path, 16, 16, preprocess)
    labels = labels_of(samples)[0]
    red = next(samples.batches(1)).feed["x"][0, 0]
    pure = np.isin(red, (0, 200))
    assert pure.mean() > 0.6
    np.testing.assert_array_equal(labels[pure], red[pure])
    assert set(np.unique(labels)) <= {0, 100, 200}
    if "stretch" in preprocess:
        rows, columns = (np.floor((np.arange(16) + 0.5) * side / 16).astype(int) for side in mask.shape)
        np.testing.assert_array_equal(labels, mask[np.ix_(rows, columns)])


def test_beyond_the_edge_nothing_is_known(tmp_path: Path) -> None:
    pair(tmp_path, "a", np.full((16, 32), 3, np.uint8))
    labels = labels_of(opened(tmp_path, 16, 16, "none,fit=pad"))[0]
    assert (labels[:4] == 255).all()
    assert (labels[12:] == 255).all()
    assert (labels[4:12] == 3).all()


def test_a_palette_holds_places_and_black_and_white_are_two_classes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 3, (16, 16), dtype=np.uint8)
    save(tmp_path / "images" / "a.png", np.zeros((16, 16, 3), np.uint8))
    palette = Image.new("P", (16, 16))
    palette.putdata(values.ravel().tolist())
    palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    (tmp_path / "masks").mkdir()
    palette.save(tmp_path / "masks" / "a.png")
    np.testing.assert_array_equal(labels_of(opened(tmp_path))[0], values)
    for mode, expected in (("1", values > 0), ("L", values > 0)):
        Image.fromarray((values > 0) * np.uint8(255)).convert(mode).save(tmp_path / "masks" / "a.png")
        np.testing.assert_array_equal(labels_of(opened(tmp_path))[0], expected)
    Image.fromarray(np.where(values == 2, 255, values).astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    assert set(np.unique(labels_of(opened(tmp_path)))) == {0, 1, 255}


def test_black_and_white_masks_that_are_padded_keep_two_classes(tmp_path: Path) -> None:
    pair(tmp_path, "a", np.repeat(np.array([[0, 255]], np.uint8), 16, 0).repeat(16, 1))
    assert set(np.unique(labels_of(opened(tmp_path, preprocess="none,fit=pad")))) == {0, 1, 255}


def test_classes_beyond_a_byte_are_kept(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", np.zeros((16, 16, 3), np.uint8))
    save(tmp_path / "masks" / "a.png", np.full((16, 16), 700, np.uint16))
    assert (labels_of(opened(tmp_path)) == 700).all()


def test_masks_that_cannot_be_read_take_their_images_along(tmp_path: Path) -> None:
    for index in range(5):
        pair(tmp_path, str(index), np.full((16, 16), index, np.uint8))
    (tmp_path / "masks" / "1.png").write_bytes(b"not an image")
    save(tmp_path / "masks" / "3.png", np.zeros((16, 16, 3), np.uint8))
    (tmp_path / "images" / "4.png").write_bytes(b"nor this")
    samples = opened(tmp_path)
    batch = next(samples.batches(8))
    assert batch.labels is not None
    assert list(batch.labels[:, 0, 0]) == [0, 2] == list(batch.feed["x"][:, 0, 0, 0])
    images, masks = samples.warnings
    assert images == "1 of 5 images can't be read and are left out: 4.png"
    assert masks.startswith("2 of 4 label images can't be read and are left out: 1.png (")
    assert masks.endswith("3.png (a RGB image)")


def test_folders_that_do_not_fit_are_explained(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pair(tmp_path, name, np.zeros((16, 16), np.uint8))
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(InvalidData, match=r"no label image for 1 of 2 images, such as b\.png"):
        opened(tmp_path)
    save(tmp_path / "masks" / "a.png", np.zeros((16, 16, 3), np.uint8))
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(InvalidData, match=r"none of the label images .* give grey or palette images"):
        opened(tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 16, 16), np.float32))
    with pytest.raises(InvalidData, match="is a folder, for label images beside a folder of images"):
        open_data(str(tmp_path / "x.npy"), [spec(16, 16)], labels=str(tmp_path / "masks"))


def test_zeros_and_ones_for_many_classes_pass_through(tmp_path: Path) -> None:
    """Labels with several classes at once stay rows; rows with one class each are class numbers."""
    x = np.zeros((4, 3, 16, 16), np.float32)
    for values, expected in (
        (np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0]]), None),
        (np.array([[0.2, 0.9], [0.1, 0.4], [1.0, 0.0], [0.5, 0.5]]), None),
        (np.eye(3)[[2, 0, 1, 1]], [2, 0, 1, 1]),
    ):
        np.savez(tmp_path / "data.npz", x=x, y=values)
        labels = labels_of(open_data(str(tmp_path / "data.npz"), [spec(16, 16)]))
        np.testing.assert_array_equal(labels, values if expected is None else expected)
