"""Text -> checked text -> token ids -> padded tensors, with `tokenizers` and numpy alone.

TokenizerFile + TextSpec are all there is to it; both are hashed into the manifest of every version.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer

from regraft.errors import InvalidInput

TOKENIZER_FILE = "tokenizer.json"
SPEC_FILE = "preprocessing.json"


class TextSpec(BaseModel):
    """What the preprocessor does beyond the tokenizer file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["text"] = "text"
    max_tokens: int
    max_characters: int
    pad_id: int


class Encoding(NamedTuple):
    """One input's token ids, special tokens included."""

    ids: list[int]

    @property
    def length(self) -> int:
        return len(self.ids)


class TextPreprocessor:
    """Safe to use from several threads."""

    def __init__(self, tokenizer_json: bytes, spec: TextSpec) -> None:
        self.spec = spec
        self._tokenizer_json = tokenizer_json
        self._tokenizer = Tokenizer.from_str(tokenizer_json.decode("utf-8"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(spec.max_tokens)

    @classmethod
    def load(cls, folder: Path) -> Self:
        spec = TextSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
        return cls((folder / TOKENIZER_FILE).read_bytes(), spec)

    def save(self, folder: Path) -> None:
        (folder / TOKENIZER_FILE).write_bytes(self._tokenizer_json)
        (folder / SPEC_FILE).write_text(self.spec.model_dump_json(indent=2) + "\n")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self._tokenizer_json + self.spec.model_dump_json().encode()).hexdigest()

    def check(self, text: str) -> None:
        """Raises InvalidInput for a text that is no input: empty, too long, or not Unicode that can be stored."""
        if not text.strip():
            raise InvalidInput("the text is empty")
        if len(text) > self.spec.max_characters:
            raise InvalidInput(f"the text has {len(text)} characters; at most {self.spec.max_characters} are taken")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidInput("the text holds half of a surrogate pair, which is no character") from error

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Token ids of each text, cut at `max_tokens`. Raises InvalidInput as `check` does."""
        for text in texts:
            self.check(text)
        return [Encoding(one.ids) for one in self._tokenizer.encode_batch_fast(list(texts))]

    def collate(self, encodings: Sequence[Encoding]) -> dict[str, NDArray[np.int64]]:
        """The network's inputs, padded to the longest: `input_ids` and `attention_mask`, both (batch, tokens) int64."""
        width = max(encoding.length for encoding in encodings)
        ids = np.full((len(encodings), width), self.spec.pad_id, dtype=np.int64)
        mask = np.zeros((len(encodings), width), dtype=np.int64)
        for row, encoding in enumerate(encodings):
            ids[row, : encoding.length] = encoding.ids
            mask[row, : encoding.length] = 1
        return {"input_ids": ids, "attention_mask": mask}


def descriptors(text: str) -> dict[str, float]:
    """Plain facts of a text that drift is watched on. Shares are of its characters."""
    size = max(len(text), 1)
    words = text.split()
    return {
        "characters": float(len(text)),
        "words": float(len(words)),
        "mean_word_length": sum(map(len, words)) / max(len(words), 1),
        "upper_share": sum(map(str.isupper, text)) / size,
        "digit_share": sum(map(str.isdigit, text)) / size,
        "punctuation_share": sum(not (c.isalnum() or c.isspace()) for c in text) / size,
        "non_ascii_share": sum(ord(c) > 127 for c in text) / size,
    }
