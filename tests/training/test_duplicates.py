import random

import pytest

from training.duplicates import jaccard, similar, unlike

WORDS = [
    f"{first}{second}" for first in ("ba", "ke", "lo", "mi", "nu", "ra") for second in ("dor", "fel", "gan", "pit")
]


def sentences(count: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [f"{' '.join(generator.choices(WORDS, k=12))} number {index}" for index in range(count)]


def test_a_typo_makes_no_other_text_and_another_text_is_none() -> None:
    texts = sentences(500)
    typos = [text.replace("number", "numbr") for text in texts[::10]]
    pairs = similar([*texts, *typos], 0.8)
    assert {(pair.first, pair.second) for pair in pairs} >= {(10 * n, 500 + n) for n in range(len(typos))}
    for pair in pairs:
        assert pair.similarity == jaccard(*(([*texts, *typos])[end] for end in pair[:2])) >= 0.8


def test_similarity_is_the_share_of_shingles() -> None:
    assert jaccard("one", "one") == 1
    assert jaccard("abc", "xyz") == 0
    assert jaccard("good", "good!") == pytest.approx(1 / 4)  # " good" of " good", "good ", "good!", "ood! "


def test_enough_pairs_are_given_to_connect_all_that_are_alike() -> None:
    same = [f"the parcel that was sent on monday morning never came to my house {n}" for n in range(100)]
    pairs = similar(same, 0.8)
    assert len(pairs) == 99
    assert len({end for pair in pairs for end in pair[:2]}) == 100


@pytest.mark.parametrize("texts", [[], ["one"], ["", "a"], ["\U0001f600", "\U0001f621"]])
def test_few_and_short_texts_are_no_trouble(texts: list[str]) -> None:
    assert similar(texts, 0.7) == []


def test_what_resembles_a_known_text_is_not_unlike_it() -> None:
    known = "the parcel that was sent on monday never came"
    texts = ["something else altogether", "the parcel that was sent on monday never came!", known, "a third thing"]
    assert unlike(texts, {known}, 0.8) == ["something else altogether", "a third thing"]
    assert unlike(texts, {known}, None) == [texts[0], texts[1], texts[3]]
