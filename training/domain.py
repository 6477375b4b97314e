"""How far the task's data is from what the backbone was pre-trained on, as far as its own preprocessing shows.

texts -> the backbone's tokens -> unknown tokens, tokens for a word, texts that are cut -> notes
images -> as the network sees them -> mean and deviation of each channel, images without colour -> notes
"""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from regraft.preprocessing import ImagePreprocessor, ImageSpec

TEXTS = 2000  # that are looked at
UNKNOWN = 0.01  # of the tokens; text in the vocabulary's own language and script has next to none
PIECES = 2.0  # tokens for a word: English prose has some 1.3 in an English vocabulary
CUT = 0.05  # of the texts
IMAGES = 300  # that are looked at
FAR = 1.0  # deviations of the pre-training's colours
GREY = 0.9  # of the images


class TextShift(NamedTuple):
    """Shares are of tokens and of texts; `pieces` are tokens for each word."""

    unknown: float
    pieces: float
    cut: float
    longest: int

    def notes(self, max_tokens: int) -> list[str]:
        notes = []
        if self.unknown > UNKNOWN:
            notes.append(
                f"{self.unknown:.1%} of the tokens are unknown to the backbone, {UNKNOWN:.0%} is usual at most: another"
                " language, script or notation than it was trained on? Compare another backbone"
            )
        if self.pieces > PIECES:
            notes.append(
                f"the backbone breaks each word into {self.pieces:.1f} pieces, {PIECES:.0f} is usual at most;"
                " its vocabulary is not that of these texts, or they have no spaces"
            )
        if self.cut > CUT:
            notes.append(
                f"{self.cut:.1%} of the texts are longer than {max_tokens} tokens and cut there; the longest has"
                f" {self.longest}"
            )
        return notes


def text_shift(texts: Sequence[str], tokenizer_json: bytes, max_tokens: int) -> TextShift:
    """Raises ValueError if there are none."""
    if not texts:
        raise ValueError("there are no texts")
    tokenizer = Tokenizer.from_str(tokenizer_json.decode("utf-8"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    plain = [one.ids for one in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    marks = tokenizer.num_special_tokens_to_add(is_pair=False)
    tokens = max(sum(map(len, plain)), 1)
    unknown = _unknown_id(tokenizer_json, tokenizer)
    return TextShift(
        unknown=sum(ids.count(unknown) for ids in plain) / tokens if unknown is not None else 0.0,
        pieces=tokens / max(sum(len(text.split()) for text in texts), 1),
        cut=sum(len(ids) + marks > max_tokens for ids in plain) / len(texts),
        longest=max(map(len, plain)) + marks,
    )


def _unknown_id(tokenizer_json: bytes, tokenizer: Tokenizer) -> int | None:
    """None for vocabularies of bytes, which know everything."""
    model = json.loads(tokenizer_json)["model"]
    named = model.get("unk_token")
    place: int | None = tokenizer.token_to_id(named) if named else model.get("unk_id")
    return place


class ImageShift(NamedTuple):
    """`distance` is how far the mean of a channel is, `spread` how wide its values are, in deviations of the
    pre-training's, of the channel that is furthest off; `grey` a share of the images."""

    distance: float
    spread: float
    grey: float

    def notes(self) -> list[str]:
        notes = []
        if self.distance > FAR:
            notes.append(
                f"the images' colours are {self.distance:.1f} deviations from those that the backbone was trained on,"
                f" {FAR:.0f} is usual at most: another kind of picture, or values that are scaled otherwise"
            )
        if not 0.5 <= self.spread <= 2:
            notes.append(
                f"the images have {self.spread:.1f} times the contrast of those that the backbone was trained on"
            )
        if self.grey > GREY:
            notes.append(f"{self.grey:.0%} of the images are without colour, which the backbone has learned to look at")
        return notes


def image_shift(contents: Iterable[bytes], spec: ImageSpec) -> ImageShift:
    """Of encoded images, against the mean and deviation that the backbone was trained with."""
    preprocessor = ImagePreprocessor(spec)
    found = np.stack([one.pixels for content in contents for one in preprocessor.encode([content])])
    pixels = found.reshape(-1, spec.channels) / 255  # (all pixels, channels)
    std = np.asarray(spec.std)
    spread = pixels.std(axis=0) / std
    grey = (found == found[..., :1]).all(axis=(1, 2, 3)) if spec.channels == 3 else np.zeros(1)
    return ImageShift(
        distance=float(np.abs((pixels.mean(axis=0) - np.asarray(spec.mean)) / std).max()),
        spread=float(spread[np.abs(np.log(np.maximum(spread, 1e-6))).argmax()]),
        grey=float(grey.mean()),
    )
