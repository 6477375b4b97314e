"""Training pictures as they might have looked otherwise: nearer, turned, moved, in another light.

The frozen layers run once, so what they see cannot change with each epoch: of each picture a few views are drawn
beforehand, and each epoch takes another. A view depends on the seed, its number and the picture's content alone.

    pixels as the network takes them -> mirrored beyond their edges -> turned, zoomed, moved, cut, flipped at once
                                     -> contrast, brightness, saturation -> noise
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.sections import Augment, Training
from training.data import Row
from training.pictures import ImageFile

Pixels = NDArray[np.uint8]
Reals = NDArray[np.float32]
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # how bright red, green and blue are (ITU-R BT.601)


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """Decoded and changed whenever it is looked at; to the same pixels."""

    length: ClassVar[int] = ImageFile.length

    file: ImageFile
    settings: Augment
    seed: str

    @property
    def pixels(self) -> Pixels:
        """Raises InvalidInput as the file does."""
        return changed(self.file.pixels, self.settings, random.Random(self.seed))


def views_of(rows: Sequence[Row], encodings: Sequence[Any], settings: Training) -> list[list[View]]:
    """For each view that the task asks for, that of every row; `encodings` are of the rows. None of texts."""
    asked = settings.augment
    return [
        [View(one, asked, f"{settings.seed} {number} {row.key}") for row, one in zip(rows, encodings, strict=True)]
        for number in range(asked.views)
    ]


def changed(pixels: Pixels, settings: Augment, chance: random.Random) -> Pixels:
    """Each change by a random amount up to what `settings` allows; (height, width, channels) stays."""
    moved: Pixels = _moved(pixels, settings, chance)
    lit: Reals = _lit(moved.astype(np.float32), settings, chance)
    return np.asarray(np.clip(lit + 0.5, 0, 255), dtype=np.uint8)


def _moved(pixels: Pixels, settings: Augment, chance: random.Random) -> Pixels:
    """Where each pixel of the result comes from is one affine map around the middle."""
    height, width, channels = pixels.shape
    turn = math.radians(settings.rotation) * chance.uniform(-1, 1)
    scale = (1 + settings.zoom) ** chance.uniform(-1, 1)
    across, down = (side * settings.shift * chance.uniform(-1, 1) for side in (width, height))
    flip = -1.0 if settings.flip and chance.random() < 0.5 else 1.0
    (wide, column), (high, row) = (_cropped(side, settings, chance) for side in (width, height))
    if (turn, scale, across, down, flip, wide, high) == (0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0):
        return pixels
    reach = math.hypot(height, width) * (0.5 + settings.shift) * (1 + settings.zoom)  # from the middle to a corner
    edge = math.ceil(reach - min(height, width) / 2) + 1
    padded = np.pad(pixels, ((edge, edge), (edge, edge), (0, 0)), mode="symmetric")
    cos, sin = math.cos(turn) / scale, math.sin(turn) / scale
    middle = (edge + column, edge + row)
    a, b, d, e = flip * cos * wide, flip * sin * wide, -sin * high, cos * high
    left, top = width / 2 + across, height / 2 + down
    matrix = (a, b, middle[0] - a * left - b * top, d, e, middle[1] - d * left - e * top)
    image = Image.fromarray(padded[:, :, 0] if channels == 1 else padded)
    found = image.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(found).reshape(pixels.shape)


def _cropped(side: int, settings: Augment, chance: random.Random) -> tuple[float, float]:
    """What share of a side stays, and where its middle is."""
    if not settings.crop:
        return 1.0, side / 2
    off = settings.crop * chance.random()
    return 1 - off, side / 2 + off * side * chance.uniform(-0.5, 0.5)


def _lit(pixels: Reals, settings: Augment, chance: random.Random) -> Reals:
    contrast, brightness, saturation = (1 + settings.colour * chance.uniform(-1, 1) for _ in range(3))
    colours: NDArray[Any] = pixels[:, :, :3]  # and not how opaque they are
    if colours.shape[2] == GREY.size:
        grey = (colours @ GREY)[:, :, None]
        colours = grey + saturation * (colours - grey)
    mean = float(colours.mean())
    colours = brightness * (mean + contrast * (colours - mean))
    noise = np.random.default_rng(chance.getrandbits(64)).normal(0, 255 * settings.noise, colours.shape)
    return np.concatenate([colours + noise.astype(np.float32), pixels[:, :, 3:]], axis=2)
