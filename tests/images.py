"""Real small images for the tests, and real broken ones, made when asked for."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pixels(seed: int = 0, *, height: int = 48, width: int = 64, channels: int = 3) -> NDArray[np.uint8]:
    """A smooth picture with some noise, (height, width, channels)."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (4, 4, channels), dtype=np.uint8)
    layers = [Image.fromarray(coarse[:, :, one]).resize((width, height)) for one in range(channels)]
    noise = generator.integers(-4, 5, (height, width, channels))
    return np.clip(np.stack([np.asarray(one) for one in layers], axis=2).astype(int) + noise, 0, 255).astype(np.uint8)


def picture(seed: int = 0, **size: int) -> Image.Image:
    return Image.fromarray(pixels(seed, **size))


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(seed: int = 0, **size: int) -> bytes:
    return file_of(picture(seed, **size))


def plain(colour: str | int | tuple[int, ...], mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> bytes:
    return file_of(Image.new(mode, size, colour))


def png_header(width: int, height: int) -> bytes:
    """A PNG of so many pixels, in some hundred bytes: its header is whole, its data are next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b""))
    )
