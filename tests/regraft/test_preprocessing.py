"""One preprocessing for training, export and serving: what it refuses, what it promises."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from regraft.errors import InvalidInput
from regraft.preprocessing import TextPreprocessor, TextSpec, descriptors, load_preprocessor


@pytest.fixture
def preprocessor() -> TextPreprocessor:
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    spec = TextSpec(max_tokens=8, max_characters=100, pad_id=0)
    return TextPreprocessor(tokenizer.to_str().encode(), spec)


def test_texts_become_padded_tensors(preprocessor: TextPreprocessor) -> None:
    tensors = preprocessor.collate(preprocessor.encode(["good", "bad bad other"]))
    np.testing.assert_array_equal(tensors["input_ids"], [[2, 0, 0], [3, 3, 1]])
    np.testing.assert_array_equal(tensors["attention_mask"], [[1, 0, 0], [1, 1, 1]])


def test_long_texts_are_cut_at_the_stated_number_of_tokens(preprocessor: TextPreprocessor) -> None:
    assert preprocessor.encode(["good " * 15])[0].length == 8


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "empty"), (" \n\t", "empty"), ("x" * 101, "101 characters; at most 100"), ("\ud800", "surrogate")],
)
def test_what_is_no_input_is_refused(preprocessor: TextPreprocessor, text: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        preprocessor.encode(["good", text])


@pytest.mark.parametrize("text", ["\0", "🎉", "e\u0301", "\u202eabc", "a\r\nb", "\uffff"])
def test_strange_characters_are_input_like_any_other(preprocessor: TextPreprocessor, text: str) -> None:
    assert preprocessor.encode([text])[0].length >= 1


def test_it_is_the_same_after_saving_and_loading(preprocessor: TextPreprocessor, tmp_path: Path) -> None:
    preprocessor.save(tmp_path)
    loaded = load_preprocessor(tmp_path)
    assert isinstance(loaded, TextPreprocessor)
    assert loaded.sha256 == preprocessor.sha256
    assert loaded.encode(["good other"]) == preprocessor.encode(["good other"])


def test_another_specification_has_another_hash(preprocessor: TextPreprocessor, tmp_path: Path) -> None:
    preprocessor.save(tmp_path)
    file = tmp_path / "preprocessing.json"
    file.write_text(file.read_text().replace("100", "101"))
    assert TextPreprocessor.load(tmp_path).sha256 != preprocessor.sha256


def test_descriptors_are_plain_facts() -> None:
    facts = descriptors("GO home, 42!")
    assert facts["characters"] == 12
    assert facts["words"] == 3
    assert facts["upper_share"] == pytest.approx(2 / 12)
    assert facts["digit_share"] == pytest.approx(2 / 12)
    assert facts["punctuation_share"] == pytest.approx(2 / 12)


def test_descriptors_of_an_empty_text_are_zero() -> None:
    assert set(descriptors("").values()) == {0.0}
