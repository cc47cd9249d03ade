"""Pictures become 8-bit RGB by what their files say."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from everstep.data import examining
from everstep.data.images import BLACK, WHITE, decode_content, read_rgb
from everstep.data.layouts.files import FolderFiles


def content(image: Image.Image, kind: str = "TIFF", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def greys(data: bytes) -> list[int]:
    return [int(grey) for grey in np.asarray(decode_content(data, BLACK))[0, :, 0]]


def floats(*values: float) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=np.float32))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.0, 0.5, 1.0), [0, 128, 255]),
        ((0.0, 128.0, 255.0), [0, 128, 255]),
        ((0.0, 32768.0, 65535.0), [0, 128, 255]),
        ((float("nan"), 0.5, 1.0), [0, 128, 255]),
        ((float("-inf"), 0.5, float("inf")), [0, 128, 255]),
        ((float("nan"), float("nan")), [0, 0]),
    ],
)
def test_floats_are_scaled_by_their_range(values: tuple[float, ...], expected: list[int]) -> None:
    assert greys(content(floats(*values))) == expected


def test_floats_are_scaled_by_the_range_that_their_file_tells() -> None:
    tags = ImageFileDirectory_v2()
    tags[340], tags[341] = 2.0, 10.0
    assert greys(content(floats(2.0, 6.0, 10.0), tiffinfo=tags)) == [0, 128, 255]


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_every_orientation_is_turned_back(turn: int, kind: str) -> None:
    from PIL import ImageOps

    pixels = np.random.default_rng(turn).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turn
    data = content(Image.fromarray(pixels), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(np.asarray(decode_content(data, BLACK)), expected)


def test_a_palette_with_transparency_shows_the_paper() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    data = content(image, "PNG", transparency=0)
    assert np.asarray(decode_content(data, WHITE)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_reading_leaves_the_filters_of_warnings_alone(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    read_rgb(tmp_path / "a.png", BLACK)
    assert list(warnings.filters) == before


def test_a_picture_that_fails_once_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, whole = tmp_path / "a.png", content(Image.new("RGB", (4, 4)), "PNG")
    path.write_bytes(whole[:20])
    monkeypatch.setattr("everstep.data.examining.time.sleep", lambda pause_s: path.write_bytes(whole))
    assert examining._examine_one(FolderFiles(path.parent), path.name).fault == ""
