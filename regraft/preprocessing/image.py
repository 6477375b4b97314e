"""Encoded image -> checked header -> upright pixels of the network's size -> normalised tensors, with Pillow alone.

bytes -> format and number of pixels, read from the header -> decoded -> upright -> the wanted channels -> cropped and
resized in one pass: (height, width, channels) of 8 bits -> a batch of float32 (batch, channels, height, width)

ImageSpec is all there is to it; it is hashed into the manifest of every version. The same file gives the same tensor to
the bit, whatever it is batched with: Pillow resizes 8-bit pixels in whole numbers, and normalising is one product and
one sum of float32 for each.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from regraft.errors import InvalidInput
from regraft.preprocessing.text import SPEC_FILE

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # and no other decoder is let near a stranger's bytes
MOST_PIXELS = 89_478_485  # above this Pillow takes an image for an attack, whatever a specification says
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
FACTS = ("width", "height", "aspect", "brightness", "contrast", "sharpness", "red", "green", "blue")
DESCRIBED = 256  # pixels of the longer side of the copy that facts are taken from, so that they compare

Pixels = NDArray[np.uint8]
Side = Annotated[int, Field(ge=8, le=2048)]
Colour = Annotated[tuple[float, ...], Field(min_length=1, max_length=4)]

_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by the EXIF tag Orientation, as a camera writes it that was held otherwise
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)


class ImageSpec(BaseModel):
    """How an encoded image becomes the network's input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["image"] = "image"
    height: Side
    width: Side
    channels: Literal[1, 3, 4] = Field(3, description="grey; red, green, blue; and alpha")
    resize: Literal["crop", "squash"] = Field("crop", description="the middle is cut out, or all of it is squeezed in")
    crop: float = Field(1.0, gt=0, le=1, description="share of the largest fitting middle that is cut out")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: Colour = Field(description="of each channel, of values from 0 to 1")
    std: Colour
    max_pixels: int = Field(ge=1, le=MOST_PIXELS, description="more are refused before anything is decoded")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError("mean and std need a number for each channel")
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        return self


@dataclass(frozen=True, eq=False, slots=True)
class ImageEncoding:
    """One image's pixels (height, width, channels), not normalised yet: a quarter of the memory while it waits."""

    length: ClassVar[int] = 1  # all are of one size, so that any may share a batch

    pixels: Pixels


class ImagePreprocessor:
    """Safe to use from several threads, which decode side by side: Pillow lets go of Python's lock."""

    def __init__(self, spec: ImageSpec) -> None:
        self.spec = spec
        std = 255 * np.asarray(spec.std, dtype=np.float64)
        scale, offset = 1 / std, -255 * np.asarray(spec.mean, dtype=np.float64) / std
        self._scale, self._offset = (one.astype(np.float32)[:, None, None] for one in (scale, offset))

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(ImageSpec.model_validate_json((folder / SPEC_FILE).read_bytes()))

    def save(self, folder: Path) -> None:
        (folder / SPEC_FILE).write_text(self.spec.model_dump_json(indent=2) + "\n")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.spec.model_dump_json().encode()).hexdigest()

    def check(self, content: bytes) -> None:
        """Raises InvalidInput for what is no image that is taken, as far as its header says."""
        open_image(content, self.spec.max_pixels).close()

    def decode(self, content: bytes) -> Image.Image:
        """The picture as it is before it is cut and resized. Raises InvalidInput as `encode` does."""
        spec = self.spec
        return decode(content, spec.channels, round(2 * max(spec.width, spec.height) / spec.crop), spec.max_pixels)

    def encode(self, contents: Sequence[bytes]) -> list[ImageEncoding]:
        """The pixels of each encoded image. Raises InvalidInput for what is no image, damaged, animated, too large."""
        return [ImageEncoding(self._pixels(content)) for content in contents]

    def collate(self, encodings: Sequence[ImageEncoding]) -> dict[str, NDArray[np.float32]]:
        """The network's input: `pixels`, (batch, channels, height, width) float32, normalised."""
        pixels = np.stack([encoding.pixels for encoding in encodings])
        planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)  # turned while they are bytes
        planes *= self._scale
        planes += self._offset
        return {"pixels": planes}

    def _pixels(self, content: bytes) -> Pixels:
        spec, decoded = self.spec, self.decode(content)
        method = Image.Resampling[spec.interpolation.upper()]
        resized = decoded.resize((spec.width, spec.height), method, _box(decoded, spec))
        return np.asarray(resized).reshape(spec.height, spec.width, spec.channels)


def open_image(content: bytes, max_pixels: int) -> Image.Image:
    """Its header is read and nothing else. Raises InvalidInput for what is empty, no image of FORMATS, animated or of
    more pixels than are taken."""
    if not content:
        raise InvalidInput("the image is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        # A JPEG may hold a second, smaller copy of itself; its format then has another name.
        animated = getattr(image, "is_animated", False) and image.format in FORMATS
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(f"the image has too many pixels; at most {max_pixels} are taken") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they stumble over
        raise InvalidInput(f"this is no image that can be read; {', '.join(FORMATS)} are taken") from error
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise InvalidInput(f"the image has {image.width} x {image.height} pixels; at most {max_pixels} are taken")
    if animated:
        raise InvalidInput("the image is animated; a single picture is taken")
    return image


def check_whole(content: bytes, max_pixels: int) -> None:
    """Raises InvalidInput where encoding it would: all of it is decoded, as small as its format allows."""
    with open_image(content, max_pixels) as image:
        _upright(image, 1)


def decode(content: bytes, channels: int, enough: int, max_pixels: int = MOST_PIXELS) -> Image.Image:
    """Upright, in 8 bits and the wanted channels; a JPEG at the smallest of its scales that leaves `enough` pixels on
    the shorter side. Raises InvalidInput for what is no image, damaged, animated or of more pixels than are taken."""
    with open_image(content, max_pixels) as image:
        return in_channels(_upright(image, enough), channels)


def in_channels(image: Image.Image, channels: int) -> Image.Image:
    """In 8 bits and the wanted channels, without a palette. What is transparent lets white through, unless alpha is a
    channel. 16 bits lose their lower half."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data and channels < 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])


def png(pixels: Pixels) -> bytes:
    """Raw pixels (height, width, channels) as a file, without loss: so they are kept, shown and trained on like any
    other image."""
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def describe_image(content: bytes) -> dict[str, float]:
    """Plain facts of an image that drift is watched on: size in pixels, the rest from 0 to 1 on a small copy. Sharpness
    is the deviation of the grey picture's Laplacian. Raises InvalidInput as encoding it does."""
    with open_image(content, MOST_PIXELS) as image:
        width, height = image.size
        small = in_channels(_upright(image, DESCRIBED), 3).copy()
        if _orientation(image) in _SIDEWAYS:
            width, height = height, width
    small.thumbnail((DESCRIBED, DESCRIBED))
    grey = np.asarray(small.convert("L"), dtype=np.float64) / 255
    red, green, blue = np.asarray(small).mean(axis=(0, 1)) / 255
    values = (width, height, width / height, grey.mean(), grey.std(), _laplacian(grey).std(), red, green, blue)
    return dict(zip(FACTS, map(float, values), strict=True))


def _laplacian(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each pixel is from its four neighbours; beyond the edge the picture goes on as it ends."""
    wide = np.pad(grey, 1, mode="edge")
    around = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
    return np.asarray(around / 4 - grey)


def _upright(image: Image.Image, enough: int) -> Image.Image:
    """Decoded. A JPEG is decoded at the smallest of its scales that leaves `enough` pixels on the shorter side."""
    try:
        image.draft(None, (enough, enough))
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise InvalidInput(f"the image is damaged: {error}") from error
    turned = _TURNED.get(_orientation(image))
    return image if turned is None else image.transpose(turned)


def _orientation(image: Image.Image) -> int:
    """1, as it stands, also where the tags around a good image are damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001
        return 1


def _box(image: Image.Image, spec: ImageSpec) -> tuple[float, float, float, float] | None:
    """What of the image is resized: left, top, right, bottom. Cutting before resizing keeps a picture of one row of
    millions of pixels from growing in its other direction too."""
    if spec.resize == "squash":
        return None
    scale = min(image.width / spec.width, image.height / spec.height) * spec.crop
    width, height = spec.width * scale, spec.height * scale
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return max(left, 0.0), max(top, 0.0), min(left + width, image.width), min(top + height, image.height)
