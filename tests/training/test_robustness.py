import io
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from regraft.answers import Labels
from regraft.preprocessing import ImagePreprocessor, ImageSpec
from tests.images import file_of, plain
from training.proof import thumbnail
from training.robustness import OF_IMAGES, OF_TEXTS, cut, measure, of_files, typos
from training.targets import target_for

TEXTS = ["good " * 5 + f"word{number}" if number % 2 else "bad " * 5 + f"word{number}" for number in range(60)]
TRUTH = np.arange(60) % 2
TARGET = target_for(Labels(("bad", "good")))
OPTIONS = {"most": 40, "resamples": 100, "seed": 0}


def network_of(channels: int) -> ImagePreprocessor:
    half = (0.5,) * channels
    return ImagePreprocessor(ImageSpec(height=32, width=32, channels=channels, mean=half, std=half, max_pixels=10_000))


FILES = of_files(network_of(3))


def spells(texts: Iterable[str]) -> NDArray[np.int64]:
    """Knows the word as it is spelt, in lower case."""
    return np.array([int("good" in text) for text in texts])


def test_each_change_has_a_curve_from_the_text_as_it_is_to_the_worst() -> None:
    curves = {curve.change: curve for curve in measure(TEXTS, TRUTH, spells, TARGET, OF_TEXTS, **OPTIONS)}
    assert {len(curve.points) for curve in curves.values()} == {3, 4, 5}
    for curve in curves.values():
        assert curve.rows == 40
        assert curve.points[0].severity == "as it is"
        assert (curve.points[0].figures["accuracy"].value, curve.points[0].gain.value) == (1.0, 0.0)
    shouted = curves["other case"].points[-1]
    assert shouted.severity == "all upper"
    assert shouted.figures["accuracy"].value < 0.7
    assert shouted.gain.high < 0
    assert shouted.other_answers == -shouted.gain.value
    assert curves["cutting off"].points[-1].other_answers == 0


def test_the_same_seed_gives_the_same_curves_and_another_one_others() -> None:
    first, again = (measure(TEXTS, TRUTH, spells, TARGET, OF_TEXTS, **OPTIONS) for _ in range(2))
    assert first == again
    assert first != measure(TEXTS, TRUTH, spells, TARGET, OF_TEXTS, **OPTIONS | {"seed": 1})


def test_typing_errors_hit_about_the_share_of_letters_and_nothing_else() -> None:
    text = "abcdefghij" * 400
    assert typos(text, 0.0, random.Random(0)) == text
    changed = typos(text, 0.1, random.Random(0))
    assert changed != text
    assert abs(len(changed) - len(text)) < 60
    assert typos("1234 !?", 1.0, random.Random(0)) == "1234 !?"


def test_a_text_keeps_at_least_a_word() -> None:
    assert cut("a b c d", 0.5) == "a b"
    assert cut("a", 0.25) == "a"


def test_a_text_that_would_vanish_stays_as_it_is() -> None:
    def none_is_empty(texts: Iterable[str]) -> NDArray[np.int64]:
        given = list(texts)
        assert all(text.strip() for text in given)
        return np.zeros(len(given), dtype=np.int64)

    measure(["a", "b"] * 20, np.zeros(40, dtype=np.int64), none_is_empty, TARGET, OF_TEXTS, **OPTIONS)


def test_an_input_is_changed_when_the_answer_comes_to_it() -> None:
    looked_up: list[int] = []

    class Lazy(list[str]):
        def __getitem__(self, index: Any) -> Any:
            looked_up.append(int(index))
            return super().__getitem__(index)

    def answers(texts: Iterable[str]) -> NDArray[np.int64]:
        before = len(looked_up)
        numbers = []
        for number, text in enumerate(texts, start=1):
            assert len(looked_up) == before + number
            numbers.append(len(text) % 2)
        return np.array(numbers)

    measure(Lazy(TEXTS), TRUTH, answers, TARGET, OF_TEXTS, **OPTIONS)
    assert len(looked_up) == 40 * (1 + sum(map(len, OF_TEXTS.values())))


def picture(dark: bool, seed: int) -> bytes:
    """Fine stripes, on a dark ground or on a bright one."""
    ground = np.random.default_rng(seed).integers(0, 40, (40, 60, 3)) + (40 if dark else 180)
    ground[:, ::2] += 30
    file = io.BytesIO()
    Image.fromarray(ground.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def pixels(content: bytes) -> NDArray[np.float64]:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.float64)


@pytest.mark.parametrize("change", OF_IMAGES)
def test_each_change_of_an_image_gets_worse_with_its_severity(change: str) -> None:
    content = picture(dark=False, seed=0)
    distances = []
    for severity in FILES[change]:
        changed = pixels(severity.change(content, random.Random(0)))
        assert changed.shape == (40, 60, 3)
        assert severity.change(content, random.Random(0)) == severity.change(content, random.Random(0))
        distances.append(np.abs(changed - pixels(content)).mean())
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_images_get_curves_as_texts_do() -> None:
    def bright(contents: Iterable[bytes]) -> NDArray[np.int64]:
        return np.array([int(pixels(content).mean() > 128) for content in contents])

    contents = [picture(dark=number % 2 == 0, seed=number) for number in range(30)]
    curves = measure(contents, np.arange(30) % 2, bright, TARGET, FILES, **OPTIONS)
    last = {curve.change: curve.points[-1].figures["accuracy"].value for curve in curves}
    assert last["blur"] == last["JPEG compression"] == 1.0
    assert last["darkness"] == last["glare"] == 0.5


@pytest.mark.parametrize("change", OF_IMAGES)
def test_a_picture_is_changed_as_the_network_decodes_it(change: str) -> None:
    clear = plain((10, 20, 30, 0), "RGBA", (40, 40))
    deep = file_of(Image.fromarray(np.full((40, 40), 0x8040, dtype=np.uint16)))
    for content, looks in ((clear, 255), (deep, 128)):
        for channels, mode in ((1, "L"), (3, "RGB")):
            (severity, *_) = of_files(network_of(channels))[change]
            changed = Image.open(io.BytesIO(severity.change(content, random.Random(0))))
            expected = OF_IMAGES[change][0].change(Image.new(mode, (40, 40), (looks,) * channels), random.Random(0))
            assert (changed.mode, changed.tobytes()) == (mode, expected.tobytes())
    half = Image.new("RGBA", (40, 40), (200, 20, 30, 100))
    (severity, *_) = of_files(network_of(4))[change]
    changed = Image.open(io.BytesIO(severity.change(file_of(half), random.Random(0))))
    assert (changed.mode, changed.getchannel("A").getextrema()) == ("RGBA", (100, 100))


def test_damaged_tags_around_a_good_picture_stop_nothing() -> None:
    content = file_of(Image.new("RGB", (40, 40)), exif=b"Exif\0\0no header at all")
    for severities in FILES.values():
        assert severities[0].change(content, random.Random(0))
    assert thumbnail(content).startswith("data:image/jpeg")
