"""Images on their way to the network: what is refused, what becomes of every kind, what stays the same to the bit."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from pydantic import ValidationError

from regraft.errors import InvalidInput
from regraft.preprocessing import ImagePreprocessor, ImageSpec, describe_image, load_preprocessor
from regraft.preprocessing.image import MOST_PIXELS, decode, png
from tests import images
from tests.images import file_of, picture, pixels, plain

HALF = (0.5, 0.5, 0.5)
SPEC = ImageSpec(height=16, width=16, mean=HALF, std=HALF, max_pixels=1_000_000)
SAME = SPEC.model_copy(update={"height": 48, "width": 64, "resize": "squash"})  # the size of the test's pictures


def encoded(content: bytes, spec: ImageSpec = SPEC) -> NDArray[np.uint8]:
    (one,) = ImagePreprocessor(spec).encode([content])
    return one.pixels


def colour(content: bytes, spec: ImageSpec = SPEC) -> tuple[int, ...]:
    """That of the middle."""
    return tuple(encoded(content, spec)[8, 8].tolist())


def test_images_become_normalised_tensors() -> None:
    preprocessor = ImagePreprocessor(SPEC.model_copy(update={"mean": (0.0, 0.5, 1.0), "std": (1.0, 0.5, 0.25)}))
    tensors = preprocessor.collate(preprocessor.encode([plain((0, 255, 255)), plain((255, 0, 0))]))
    assert set(tensors) == {"pixels"}
    assert tensors["pixels"].shape == (2, 3, 16, 16)
    assert tensors["pixels"].dtype == np.float32
    np.testing.assert_allclose(tensors["pixels"][:, :, 3, 5], [[0, 1, 0], [1, -1, -4]], atol=1e-6)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "GIF", "JPEG"])
def test_every_format_of_the_list_is_read(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    got = encoded(file_of(picture(), kind, **options), SAME)
    assert np.abs(got.astype(int) - pixels()).max() <= {"JPEG": 24, "GIF": 64}.get(kind, 0)


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "TGA", "PCX"])
def test_other_formats_are_refused_by_name(kind: str) -> None:
    with pytest.raises(InvalidInput, match="JPEG, PNG, WEBP, GIF, BMP are taken"):
        encoded(file_of(picture(), kind))


def cut(kind: str) -> bytes:
    content = file_of(picture(height=200, width=200), kind)
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the image is empty"),
        (b"these are words", "no image that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image that can be read"),
        (images.png()[:20], "no image that can be read"),
        (cut("PNG"), "the image is damaged"),
        (cut("JPEG"), "the image is damaged"),
        (cut("BMP"), "the image is damaged"),
        (cut("WEBP"), "no image that can be read|the image is damaged"),
        (cut("GIF"), "the image is damaged"),
        (images.png_header(50_000, 50_000), "too many pixels"),
        (images.png_header(2_000, 1_000), "2000 x 1000 pixels; at most 1000000"),
        (images.png_header(100, 100), "the image is damaged"),
        (file_of(picture(), "GIF", save_all=True, append_images=[picture(1)]), "animated"),
        (file_of(picture(), "PNG", save_all=True, append_images=[picture(1)]), "animated"),
        (file_of(picture(), "WEBP", save_all=True, append_images=[picture(1)]), "animated"),
    ],
)
def test_what_is_no_image_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        encoded(content)


def test_a_bomb_is_refused_by_its_header_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        pytest.fail("it was decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", explode)
    with pytest.raises(InvalidInput, match="pixels; at most"):
        ImagePreprocessor(SPEC).check(images.png_header(1_001, 1_000))
    with pytest.raises(ValidationError, match="max_pixels"):
        ImageSpec.model_validate(SPEC.model_dump() | {"max_pixels": MOST_PIXELS + 1})


def test_flipped_bytes_never_give_anything_but_an_image_or_a_refusal() -> None:
    generator = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        whole = file_of(picture(), kind)
        for _ in range(60):
            broken = bytearray(whole)
            for place in generator.integers(0, min(len(whole), 400), 3):
                broken[place] = generator.integers(256)
            try:
                assert encoded(bytes(broken)).shape == (16, 16, 3)
            except InvalidInput:
                continue


def oriented(number: int) -> bytes:
    """The test's picture as a camera held in that way would store it."""
    exif = Image.Exif()
    exif[0x0112] = number
    turned: dict[int, Callable[[Image.Image], Image.Image]] = {
        1: lambda one: one,
        2: lambda one: one.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda one: one.transpose(Image.Transpose.ROTATE_180),
        4: lambda one: one.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda one: one.transpose(Image.Transpose.TRANSPOSE),
        6: lambda one: one.transpose(Image.Transpose.ROTATE_90),
        7: lambda one: one.transpose(Image.Transpose.TRANSVERSE),
        8: lambda one: one.transpose(Image.Transpose.ROTATE_270),
    }
    return file_of(turned[number](picture()), "PNG", exif=exif)


@pytest.mark.parametrize("number", range(1, 9))
def test_a_camera_that_was_turned_makes_no_difference(number: int) -> None:
    np.testing.assert_array_equal(encoded(oriented(number), SAME), pixels())
    facts = describe_image(oriented(number))
    assert (facts["width"], facts["height"]) == (64, 48)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_tags_around_a_good_image_are_no_matter() -> None:
    content = file_of(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff\xff")
    assert encoded(content).shape == (16, 16, 3)


def test_a_jpeg_is_decoded_at_the_smallest_scale_that_is_enough() -> None:
    content = file_of(picture(height=600, width=800), "JPEG")
    assert [decode(content, 1, enough).size for enough in (600, 300, 200, 16)] == [
        (800, 600), (400, 300), (400, 300), (100, 75)
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="at most 1000 are taken"):
        decode(content, 3, 16, 1_000)


def palette() -> Image.Image:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    return image


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (plain(90, "L"), (90, 90, 90)),
        (plain(1, "1"), (255, 255, 255)),
        (file_of(palette()), (0, 0, 255)),
        (file_of(palette(), transparency=1), (255, 255, 255)),
        (plain((10, 20, 30, 255), "RGBA"), (10, 20, 30)),
        (plain((10, 20, 30, 0), "RGBA"), (255, 255, 255)),
        (plain((0, 0, 0, 51), "RGBA"), (204, 204, 204)),
        (plain((40, 0), "LA"), (255, 255, 255)),
        (file_of(Image.fromarray(np.full((16, 16), 0x8040, dtype=np.uint16))), (128, 128, 128)),
    ],
)
def test_grey_palettes_alpha_and_16_bits_become_colours(content: bytes, expected: tuple[int, ...]) -> None:
    assert colour(content) == expected


def test_cmyk_becomes_colours() -> None:
    got = colour(file_of(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG"))
    assert np.abs(np.subtract(got, (0, 255, 255))).max() <= 3


def test_a_specification_may_want_other_channels() -> None:
    grey = ImageSpec(height=16, width=16, channels=1, mean=(0.0,), std=(1.0,), max_pixels=10_000)
    assert encoded(plain((255, 255, 255)), grey).shape == (16, 16, 1)
    assert colour(plain((100, 100, 100)), grey) == (100,)
    four = ImageSpec(height=16, width=16, channels=4, mean=(0.0,) * 4, std=(1.0,) * 4, max_pixels=10_000)
    assert colour(plain((10, 20, 30, 40), "RGBA"), four) == (10, 20, 30, 40)
    assert colour(plain((10, 20, 30)), four) == (10, 20, 30, 255)


@pytest.mark.parametrize(
    "change", [{"std": (1.0, 1.0, 0.0)}, {"mean": (0.5,)}, {"crop": 0.0}, {"height": 4}, {"colour": "red"}]
)
def test_a_specification_that_cannot_be_meant_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ImageSpec.model_validate(SPEC.model_dump() | change)


def test_the_middle_is_cut_out_or_all_is_squeezed_in() -> None:
    bar = Image.new("RGB", (64, 16), "black")
    bar.paste("white", (24, 0, 40, 16))
    assert np.min(encoded(file_of(bar))) > 200  # the middle square
    squeezed = encoded(file_of(bar), SPEC.model_copy(update={"resize": "squash"}))
    assert squeezed[8, [0, 8, 15], 0].tolist() == [0, 255, 0]
    half = SPEC.model_copy(update={"crop": 0.5, "interpolation": "nearest"})
    np.testing.assert_array_equal(
        encoded(images.png(height=32, width=32), half), pixels(height=32, width=32)[8:24, 8:24]
    )


def test_a_strip_of_a_million_pixels_does_not_grow() -> None:
    assert encoded(file_of(Image.new("L", (1_000_000, 1), 77))).shape == (16, 16, 3)


def test_a_large_jpeg_is_decoded_small_and_looks_the_same() -> None:
    large = picture(height=600, width=800)
    small = encoded(file_of(large, "JPEG", quality=95)).astype(int)
    assert np.abs(small - encoded(file_of(large))).mean() < 2


def test_the_same_file_gives_the_same_bits_in_every_company_and_thread(tmp_path: Path) -> None:
    contents = [images.png(seed) for seed in range(6)] + [file_of(picture(seed), "JPEG") for seed in range(6)]
    ImagePreprocessor(SPEC).save(tmp_path)
    loaded = load_preprocessor(tmp_path)
    assert isinstance(loaded, ImagePreprocessor)
    assert loaded.sha256 == ImagePreprocessor(SPEC).sha256
    together = loaded.collate(loaded.encode(contents))["pixels"]
    with ThreadPoolExecutor(4) as threads:
        alone = list(threads.map(lambda one: loaded.collate(loaded.encode([one]))["pixels"][0], contents))
    assert together.tobytes() == np.stack(alone).tobytes()


def test_another_specification_has_another_hash() -> None:
    hashes = {ImagePreprocessor(spec).sha256 for spec in (SPEC, SAME, SPEC.model_copy(update={"crop": 0.9}))}
    assert len(hashes) == 3


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_raw_pixels_become_a_file_without_loss(channels: int) -> None:
    raw = pixels(channels=channels)
    spec = ImageSpec(
        height=48, width=64, channels=channels, resize="squash", mean=(0.0,) * channels, std=(1.0,) * channels,
        max_pixels=10_000,
    )  # fmt: skip
    np.testing.assert_array_equal(encoded(png(raw), spec), raw)


def test_facts_of_an_image_are_plain() -> None:
    facts = describe_image(plain((255, 0, 0), size=(40, 20)))
    assert (facts["width"], facts["height"], facts["aspect"]) == (40, 20, 2)
    assert (facts["red"], facts["green"], facts["blue"]) == (1, 0, 0)
    assert facts["brightness"] == pytest.approx(76 / 255)
    assert max(facts["contrast"], facts["sharpness"]) < 1e-12
    board = Image.fromarray(np.kron(np.indices((8, 8)).sum(axis=0) % 2 * 255, np.ones((4, 4))).astype(np.uint8))
    assert describe_image(file_of(board))["contrast"] == pytest.approx(0.5)
    blurred = board.resize((8, 8)).resize((32, 32), Image.Resampling.BICUBIC)
    assert describe_image(file_of(board))["sharpness"] > 2 * describe_image(file_of(blurred))["sharpness"]


def test_facts_of_what_is_no_image_are_not_made_up() -> None:
    with pytest.raises(InvalidInput):
        describe_image(b"words")
