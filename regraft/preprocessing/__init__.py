"""From a caller's input to the tensors of the network: one implementation for training, export and serving alike."""

from regraft.preprocessing.text import Encoding, TextPreprocessor, TextSpec, descriptors

__all__ = ["Encoding", "TextPreprocessor", "TextSpec", "descriptors"]
