"""Which classes belong to which kind of input."""

from regraft.preprocessing import ImagePreprocessor, Preprocessor
from regraft.task import Task
from training.backbone import BackboneCard, open_preprocessor
from training.images import ImageEncoder
from training.network import Encoder
from training.pictures import open_image_files, timm_config
from training.text import TextEncoder
from training.vision import VisionEncoder


def preprocessor_of(task: Task, card: BackboneCard) -> Preprocessor:
    """The backbone's own, with the task's limits; over texts, or over the places of images. Raises ConfigError."""
    if task.input == "image":
        return open_image_files(card.folder, task.serving.max_pixels, task.backbone)
    return open_preprocessor(task, card)


def encoder_of(card: BackboneCard, preprocessor: Preprocessor) -> Encoder:
    """The pre-trained network. Raises ConfigError."""
    if isinstance(preprocessor, ImagePreprocessor):
        encoder = ImageEncoder if timm_config(card.folder) else VisionEncoder
        return encoder.load(card, preprocessor.spec)
    return TextEncoder.load(card)
