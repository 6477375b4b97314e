"""Image files to learn from: read and checked once, decoded whenever they are looked at, as there are more than fit in
memory."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from numpy.typing import NDArray
from PIL.Image import Resampling
from transformers import AutoImageProcessor

from regraft.errors import ConfigError, InvalidInput
from regraft.inputs import reference_of
from regraft.preprocessing import ImagePreprocessor, ImageSpec
from regraft.preprocessing.image import MODES, check_whole
from regraft.sections import Backbone

COLOURS = 3
SQUASHED = 384  # pixels from which on ConvNeXt's preprocessor cuts nothing


@dataclass(frozen=True, eq=False, slots=True)
class ImageFile:
    """An image where it lies, decoded when it is looked at: training has more of them than memory."""

    length: ClassVar[int] = 1

    place: str
    preprocessor: ImagePreprocessor

    @property
    def pixels(self) -> NDArray[Any]:
        """Raises InvalidInput that names the file."""
        try:
            (encoding,) = self.preprocessor.encode([read_image(self.place)])
        except InvalidInput as error:
            raise InvalidInput(f"{self.place}: {error.message}") from error
        return encoding.pixels


class ImageFiles(ImagePreprocessor):
    """The same preprocessor over places (paths or fsspec URLs) instead of contents."""

    def encode(self, places: Sequence[str]) -> list[ImageFile]:  # type: ignore[override]
        plain = ImagePreprocessor(self.spec)
        return [ImageFile(place, plain) for place in places]


def read_image(place: str) -> bytes:
    if "://" not in place:
        return Path(place).read_bytes()
    with fsspec.open(place, "rb") as file:
        return bytes(file.read())


def check_file(given: str, folder: Path, max_pixels: int) -> tuple[str, str]:
    """The whole place of an image, and the reference of its content. Raises ValueError for what is not there or is
    no image."""
    place = given if "://" in given else str(folder / given)
    try:
        content = read_image(place)
        check_whole(content, max_pixels)
    except OSError as error:
        raise ValueError(f"{given} cannot be read: {error.strerror or error}") from error
    except InvalidInput as error:
        raise ValueError(f"{given}: {error.message}") from error
    return place, reference_of(content)


def open_image_files(folder: Path, max_pixels: int, backbone: Backbone | None = None) -> ImageFiles:
    """As the network in `folder` was trained: size, normalisation, cut; but for what the task says of its `backbone`.

    Raises ConfigError where neither says so, or it takes what no image file holds.
    """
    config = timm_config(folder)
    try:
        told = _as_timm_says(config["pretrained_cfg"]) if config else _as_transformers_says(folder)
        if backbone:
            told |= _as_task_says(backbone, told)
        if told["channels"] not in MODES:
            count = told["channels"]
            raise ConfigError(
                f"the backbone in {folder} takes images of {count} channels, image files have 1, 3 or 4: set"
                " backbone.channels to what yours have, and it is fitted to them"
            )
        spec = ImageSpec(**told, max_pixels=max_pixels)
    except (KeyError, ValueError, TypeError, OSError) as error:
        message = f"the backbone in {folder} does not say how timm or transformers prepares its images: {error!r}"
        raise ConfigError(message) from error
    return ImageFiles(spec)


def _as_timm_says(config: dict[str, Any]) -> dict[str, Any]:
    channels, height, width = config["input_size"]
    return {
        "height": height,
        "width": width,
        "channels": channels,
        "resize": "squash" if config.get("crop_mode") == "squash" else "crop",
        "crop": config.get("crop_pct") or 1.0,
        "interpolation": config.get("interpolation", "bicubic"),
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
    }


def _as_task_says(backbone: Backbone, told: dict[str, Any]) -> dict[str, Any]:
    """For channels that the network has not seen, its mean and deviation are what its own have on average."""
    channels = backbone.channels or told["channels"]

    def fitted(values: tuple[float, ...]) -> tuple[float, ...]:
        return values if len(values) == channels else (sum(values) / len(values),) * channels

    mean, std = backbone.mean or fitted(told["mean"]), backbone.std or fitted(told["std"])
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ConfigError(f"backbone.{name} has {len(values)} numbers for {channels} channels")
    return {"channels": channels, "mean": mean, "std": std}


def _as_transformers_says(folder: Path) -> dict[str, Any]:
    """What the file leaves out, the class that it names knows, or that of the network."""
    told: Any = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    size, cut = told.size, told.crop_size if told.do_center_crop else None
    shortest = size.shortest_edge
    part = getattr(told, "crop_pct", None) if shortest else None
    squashed = not cut and (not shortest or (part and shortest >= SQUASHED))
    wanted = cut or size
    height = wanted.height or shortest
    channels = len(told.image_mean) if told.image_mean else COLOURS
    mean, std = (told.image_mean, told.image_std) if told.do_normalize else ((0.0,) * channels, (1.0,) * channels)
    scale = 255 * told.rescale_factor if told.do_rescale else 255
    return {
        "height": height,
        "width": wanted.width or shortest,
        "channels": channels,
        "resize": "squash" if squashed else "crop",
        "crop": 1.0 if squashed else min(height / (shortest or size.height), 1.0) * (part or 1.0),
        "interpolation": Resampling(told.resample).name.lower(),
        "mean": tuple(value / scale for value in mean),
        "std": tuple(value / scale for value in std),
    }


def timm_config(folder: Path) -> dict[str, Any]:
    """Its config.json; empty where there is none, or it is another library's, which names no `architecture`."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError:
        return {}
    return config if isinstance(config, dict) and isinstance(config.get("architecture"), str) else {}
