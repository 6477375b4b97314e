"""From a caller's input to the tensors of the network: one implementation for training, export and serving alike."""

from regraft.preprocessing.image import ImageEncoding, ImagePreprocessor, ImageSpec, describe_image
from regraft.preprocessing.loading import Encoded, Preprocessor, fingerprint, load_preprocessor
from regraft.preprocessing.text import Encoding, TextPreprocessor, TextSpec, descriptors

__all__ = [
    "Encoded",
    "Encoding",
    "ImageEncoding",
    "ImagePreprocessor",
    "ImageSpec",
    "Preprocessor",
    "TextPreprocessor",
    "TextSpec",
    "describe_image",
    "descriptors",
    "fingerprint",
    "load_preprocessor",
]
