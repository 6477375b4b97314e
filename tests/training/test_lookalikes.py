import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from regraft.preprocessing import ImageSpec
from tests.images import file_of, picture, plain, png
from tests.training.pictures import save_image_backbone, save_pictures
from tests.training.test_images import SPEC, write_task
from training.checkup import check_up
from training.data import Row
from training.dataset import examine, split_again
from training.domain import image_shift
from training.lookalikes import look_alike, looks_of, thumbnails
from training.pictures import read_image


def variants(seed: int) -> list[bytes]:
    """One picture as it comes back: smaller, compressed, brighter, a little cut."""
    image = picture(seed)
    return [
        file_of(image),
        file_of(image.resize((40, 30))),
        file_of(image, "JPEG", quality=50),
        file_of(ImageEnhance.Brightness(image).enhance(0.9)),
        file_of(image.crop((0, 0, 63, 47))),
    ]


def test_pictures_that_come_back_are_found_and_others_are_not() -> None:
    contents = [content for seed in range(40) for content in variants(seed)]
    pairs = look_alike(thumbnails(contents, bytes), 0.98)
    assert len(pairs) == 4 * 40
    assert all(pair.first // 5 == pair.second // 5 for pair in pairs)
    assert min(pair.similarity for pair in pairs) >= 0.98


def test_the_similarity_is_the_correlation_of_the_thumbnails() -> None:
    images = thumbnails(variants(3)[::2], bytes)
    (pair,) = look_alike(images[:2], 0.9)
    assert pair.similarity == pytest.approx(np.corrcoef(images[0], images[1])[0, 1])


def test_colour_counts() -> None:
    grey = picture(1).convert("L")
    tinted = [Image.merge("RGB", [grey if band == place else grey.point(lambda value: value // 3) for band in range(3)]) for place in range(2)]  # fmt: skip  # noqa: E501
    assert look_alike(thumbnails([file_of(one) for one in tinted], bytes), 0.98) == []


@pytest.mark.parametrize("contents", [[], [png(1)], [plain("white"), plain("white"), plain("black")]])
def test_few_and_empty_pictures_are_no_trouble(contents: list[bytes]) -> None:
    assert look_alike(thumbnails(contents, bytes), 0.98) == []


def test_thumbnails_are_the_same_whatever_is_beside_them() -> None:
    alone, beside = thumbnails([png(1)], bytes), thumbnails([png(2), png(1)], bytes)
    assert (alone[0] == beside[1]).all()
    assert Image.open(io.BytesIO(png(1))).size == (64, 48)


def test_files_are_read_by_the_threads_that_decode_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = set()

    def read(place: str) -> bytes:
        readers.add(threading.current_thread())
        return read_image(place)

    monkeypatch.setattr("training.lookalikes.read_image", read)
    file = tmp_path / "1.png"
    file.write_bytes(png(1))
    assert (looks_of([Row("1", str(file), "a", "", content="1")])["1"] == thumbnails([png(1)], bytes)[0]).all()
    assert threading.main_thread() not in readers


def test_lookalikes_stay_in_one_part_and_wrong_labels_of_pictures_are_found(tmp_path: Path) -> None:
    save_pictures(tmp_path / "pictures", 24)
    again = Image.open(tmp_path / "pictures" / "red" / "0.png")
    again.save(tmp_path / "pictures" / "red" / "again.jpg", quality=95)
    wrong = (tmp_path / "pictures" / "blue" / "1.png").rename(tmp_path / "pictures" / "green" / "wrong.png")
    task = write_task(tmp_path, save_image_backbone(tmp_path / "backbone"))
    examined = examine(task)
    assert any(
        line.startswith("pictures/red/0.png and pictures/red/again.jpg: ") and line.endswith("% the same picture")
        for line in examined.findings.near_duplicates
    )
    assert examined.findings.errors == []
    kept_back = {row.input for row in examined.parts.test}
    assert str(wrong) in kept_back or "green/wrong.png" in examined.findings.suspects[0]
    assert split_again(examined.card, task) == examined.parts


def test_the_check_up_compares_colours_with_those_of_the_pre_training(tmp_path: Path) -> None:
    save_pictures(tmp_path / "pictures", 12)
    task = write_task(tmp_path, save_image_backbone(tmp_path / "backbone"))
    notes = check_up(task, str(tmp_path / "history")).notes
    assert any("it takes images of 32 pixels in 3 channels" in note for note in notes)
    grey = [file_of(picture(seed).convert("L")) for seed in range(3)]
    said = image_shift(grey, SPEC).notes()
    assert said[-1] == "100% of the images are without colour, which the backbone has learned to look at"
    assert "the images have 0.0 times the contrast" in image_shift([plain("red")], SPEC).notes()[-1]
    dark = ImageSpec(height=32, width=32, mean=(0.1,) * 3, std=(0.2,) * 3, max_pixels=1_000_000)
    assert "deviations from those that the backbone was trained on" in image_shift([png(1)], dark).notes()[0]
