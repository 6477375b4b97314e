"""Which classes belong to which kind of input."""

from regraft.preprocessing import ImagePreprocessor, Preprocessor
from regraft.task import Task
from training.backbone import BackboneCard, open_preprocessor
from training.images import ImageEncoder
from training.network import Encoder
from training.pictures import open_image_files
from training.text import TextEncoder


def preprocessor_of(task: Task, card: BackboneCard) -> Preprocessor:
    """The backbone's own, with the task's limits; over texts, or over the places of images. Raises ConfigError."""
    if task.input == "image":
        return open_image_files(card.folder, task.serving.max_pixels)
    return open_preprocessor(task, card)


def encoder_of(card: BackboneCard, preprocessor: Preprocessor) -> Encoder:
    """The pre-trained network. Raises ConfigError."""
    if isinstance(preprocessor, ImagePreprocessor):
        return ImageEncoder.load(card, preprocessor.spec)
    return TextEncoder.load(card)
