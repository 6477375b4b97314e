"""How answers hold up when inputs get worse: texts mistyped, cut off; images blurred, noisy, dark, compressed.

rows -> a sample -> each change at each severity -> the version's answers -> accuracy against severity
"""

import io
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter
from pydantic import BaseModel, ConfigDict, model_validator

from regraft.answers import Answers
from regraft.preprocessing import ImagePreprocessor
from regraft.versions import Metric

KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
BESIDE = {
    letter: row[max(0, place - 1) : place] + row[place + 1 : place + 2]
    for row in KEYBOARD
    for place, letter in enumerate(row)
}

Read = NDArray[Any]  # (rows,), answers as the target reads them


class Severity(NamedTuple):
    """`change` is given a text, or an image, and returns one."""

    name: str  # as it is said: "5% of letters"
    change: Callable[[Any, random.Random], Any]


class Point(BaseModel):
    """Figures on the changed sample; `gain` is the paired difference of the first of them to the sample as it was."""

    model_config = ConfigDict(frozen=True)

    severity: str
    figures: dict[str, Metric]  # of accuracy and macro F1, or of what the target has
    gain: Metric
    other_answers: float  # share of rows that are answered otherwise than before

    @model_validator(mode="before")
    @classmethod
    def _of_old(cls, values: Any) -> Any:
        """As the proofs had it while there were labels only."""
        if isinstance(values, dict) and "accuracy" in values:
            figures = {name: values[name] for name in ("accuracy", "macro_f1")}
            return {name: one for name, one in values.items() if name not in figures} | {"figures": figures}
        return values


class Curve(BaseModel):
    model_config = ConfigDict(frozen=True)

    change: str
    rows: int
    points: list[Point]  # from the sample as it was to the most severe


def typos(text: str, share: float, generator: random.Random) -> str:
    """The four slips of Damerau 1964, "A technique for computer detection and correction of spelling errors": a letter
    too many, one too few, another one (its neighbour on the keyboard), two exchanged."""
    letters = list(text)
    for place, letter in enumerate(text):
        if not letter.isalpha() or generator.random() >= share:
            continue
        slip = generator.randrange(4)
        if slip == 0:
            letters[place] += letter
        elif slip == 1:
            letters[place] = ""
        elif slip == 2:
            letters[place] = generator.choice(BESIDE.get(letter.lower(), letter))
        elif place + 1 < len(letters):
            letters[place], letters[place + 1] = letters[place + 1], letters[place]
    return "".join(letters)[: len(text)]  # longer, it might be longer than is taken


def cut(text: str, share: float) -> str:
    words = text.split()
    return " ".join(words[: max(1, round(share * len(words)))])


class Target(Protocol):
    """As much of training/targets as is needed here."""

    @property
    def answers(self) -> Answers: ...

    def same(self, one: Read, other: Read) -> NDArray[np.bool_]: ...

    def evaluate(self, truth: Read, read: Read, *, resamples: int, seed: int) -> dict[str, Metric]: ...

    def compare(self, truth: Read, ours: Read, theirs: Read, *, resamples: int, seed: int) -> dict[str, Metric]: ...


def measure(
    inputs: Sequence[Any],
    truth: Read,
    answer: Callable[[Iterable[Any]], Read],
    target: Target,
    changes: Mapping[str, Sequence[Severity]],
    *,
    most: int,
    resamples: int,
    seed: int,
) -> list[Curve]:
    """A curve of each change, on at most `most` of the rows. Same seed, same curves.

    An input is looked up and changed when `answer` comes to it: changed pictures are more than memory holds.
    """
    sample = np.sort(np.random.default_rng(seed).permutation(len(inputs))[:most])
    truth, clean = truth[sample], answer(inputs[index] for index in sample)
    options = {"resamples": resamples, "seed": seed}
    curves = []
    for name, severities in changes.items():
        points = [_point("as it is", truth, clean, clean, target, **options)]
        for severity in severities:
            changed = (_changed(inputs[index], severity, random.Random(f"{seed} {name} {index}")) for index in sample)
            points.append(_point(severity.name, truth, answer(changed), clean, target, **options))
        curves.append(Curve(change=name, rows=len(sample), points=points))
    return curves


def _changed(given: Any, severity: Severity, generator: random.Random) -> Any:
    """A text that nothing is left of stays as it is."""
    changed = severity.change(given, generator)
    return changed.strip() or given if isinstance(changed, str) else changed


def _point(severity: str, truth: Read, answered: Read, clean: Read, target: Target, **options: int) -> Point:
    metrics, shown = target.evaluate(truth, answered, **options), target.answers.figures
    return Point(
        severity=severity,
        figures={name: metrics[name] for name in shown},
        gain=target.compare(truth, answered, clean, **options)[shown[0]],
        other_answers=float(np.mean(~target.same(answered, clean))),
    )


def _typos(share: float) -> Severity:
    return Severity(f"{share:.0%} of letters", lambda text, generator: typos(text, share, generator))


def _cut(share: float) -> Severity:
    return Severity(f"first {share:.0%}", lambda text, _: cut(text, share))


def _blurred(share: float) -> Severity:
    def change(image: Image.Image, _: random.Random) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))

    return Severity(f"{share:.0%} of the side", change)


def _noisy(deviation: float) -> Severity:
    def change(image: Image.Image, generator: random.Random) -> Image.Image:
        pixels = np.asarray(image, dtype=np.float64)
        noise = np.random.default_rng(generator.getrandbits(64)).normal(0, 255 * deviation, pixels.shape)
        return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))

    return Severity(f"deviation {deviation:.0%}", change)


def _bright(factor: float) -> Severity:
    return Severity(f"{factor:.0%}", lambda image, _: ImageEnhance.Brightness(image).enhance(factor))


def _compressed(quality: int) -> Severity:
    def change(image: Image.Image, _: random.Random) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return Severity(f"quality {quality}", change)


OF_IMAGES: dict[str, tuple[Severity, ...]] = {
    "blur": tuple(map(_blurred, (0.01, 0.02, 0.04))),
    "noise": tuple(map(_noisy, (0.05, 0.1, 0.2))),
    "darkness": tuple(map(_bright, (0.7, 0.4, 0.2))),
    "glare": tuple(map(_bright, (1.5, 2.0, 3.0))),
    "JPEG compression": tuple(map(_compressed, (50, 20, 5))),
}
OF_TEXTS: dict[str, tuple[Severity, ...]] = {
    "typing errors": tuple(map(_typos, (0.02, 0.05, 0.1, 0.2))),
    "cutting off": tuple(map(_cut, (0.75, 0.5, 0.25))),
    "other case": (
        Severity("all lower", lambda text, _: text.lower()),
        Severity("all upper", lambda text, _: text.upper()[: len(text)]),
    ),
}


def of_files(preprocessor: ImagePreprocessor) -> dict[str, tuple[Severity, ...]]:
    """OF_IMAGES for encoded images, which are changed as `preprocessor` decodes them."""
    return {
        name: tuple(Severity(one.name, _on_file(preprocessor, one)) for one in severities)
        for name, severities in OF_IMAGES.items()
    }


def _on_file(preprocessor: ImagePreprocessor, severity: Severity) -> Callable[[bytes, random.Random], bytes]:
    """What is transparent stays so; the colours change."""

    def change(content: bytes, generator: random.Random) -> bytes:
        image, file = preprocessor.decode(content), io.BytesIO()
        changed = severity.change(image.convert("RGB") if image.mode == "RGBA" else image, generator)
        if image.mode == "RGBA":
            changed.putalpha(image.getchannel("A"))
        changed.save(file, "PNG", compress_level=1)
        return file.getvalue()

    return change
