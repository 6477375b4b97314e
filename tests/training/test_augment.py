import random
from pathlib import Path

import numpy as np
import pytest
import torch

from regraft.errors import ConfigError
from regraft.preprocessing import ImageSpec
from regraft.sections import Augment
from regraft.task import Task
from tests.images import pixels
from tests.training.pictures import save_image_backbone, save_pictures
from tests.training.test_images import write_task
from training.augment import View, changed, views_of
from training.backbone import open_backbone
from training.clock import Clock
from training.dataset import read_dataset
from training.kinds import encoder_of, preprocessor_of
from training.learning import Reader, Source
from training.network import Network
from training.pictures import ImageFiles

STILL = Augment(rotation=0, zoom=0, shift=0, colour=0, noise=0)


def only(**settings: float) -> Augment:
    return STILL.model_copy(update=settings)


def many(picture: np.ndarray, settings: Augment, count: int = 20) -> list[np.ndarray]:
    return [changed(picture, settings, random.Random(f"{number}")) for number in range(count)]


PICTURE = pixels(5, height=24, width=32)


def test_nothing_is_changed_where_nothing_may_be() -> None:
    assert all(np.array_equal(PICTURE, one) for one in many(PICTURE, STILL))


def test_a_flip_exchanges_left_and_right_of_half_the_views() -> None:
    flipped = [np.array_equal(one, PICTURE[:, ::-1]) for one in many(PICTURE, only(flip=True), 60)]
    plain = [np.array_equal(one, PICTURE) for one in many(PICTURE, only(flip=True), 60)]
    assert all(a != b for a, b in zip(flipped, plain, strict=True))
    assert 15 < sum(flipped) < 45


@pytest.mark.parametrize("side", [31, 32])
def test_a_quarter_turn_turns(side: int) -> None:
    class Most(random.Random):
        def uniform(self, a: float, b: float) -> float:
            del a
            return b

    square = pixels(3, height=side, width=side)
    turned = changed(square, only(rotation=90), Most())
    np.testing.assert_allclose(turned.astype(int), np.rot90(square, -1).astype(int), atol=1)


def test_a_shift_moves_by_no_more_than_its_share() -> None:
    dot = np.zeros((40, 40, 1), dtype=np.uint8)
    dot[20, 20] = 255
    places = [np.argwhere(one[:, :, 0] == one.max())[0] - 20 for one in many(dot, only(shift=0.1), 50)]
    assert 3 <= np.abs(places).max() <= 4


def test_zoom_goes_both_ways() -> None:
    square = np.zeros((40, 40, 3), dtype=np.uint8)
    square[10:30, 10:30] = 255
    sizes = [(one > 127).mean() for one in many(square, only(zoom=0.2), 50)]
    assert 0.25 / 1.2**2 - 0.03 < min(sizes) < 0.22
    assert 0.28 < max(sizes) < 0.25 * 1.2**2 + 0.03


def test_a_crop_shows_a_part_of_the_picture_and_nothing_beyond_it() -> None:
    slope = np.repeat(np.arange(40, 200, 4, dtype=np.uint8)[None, :], 30, axis=0)[:, :, None]
    crops = many(slope, only(crop=0.5), 60)
    spans = [int(one.max()) - int(one.min()) for one in crops]
    assert all(one.min() >= 40 and one.max() <= 196 for one in crops)
    assert all((np.diff(one[:, :, 0].astype(int), axis=1) >= 0).all() for one in crops)
    assert 156 * 0.5 - 4 <= min(spans) < 156 * 0.6
    assert max(spans) > 156 * 0.9
    assert len({int(one.min()) for one in crops}) > 10
    bars = slope.transpose(1, 0, 2).copy()
    assert min(int(one.max()) - int(one.min()) for one in many(bars, only(crop=0.5), 60)) < 156 * 0.6


def test_colour_and_noise_leave_shapes_where_they_are() -> None:
    for settings in (only(colour=0.3), only(noise=0.05)):
        for one in many(PICTURE, settings):
            assert not np.array_equal(one, PICTURE)
            assert np.corrcoef(one.ravel(), PICTURE.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels_is_kept_and_transparency_is_no_colour(channels: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 20, channels), dtype=np.uint8)
    if channels == 4:
        picture[:, :, 3] = 77
    for one in many(picture, Augment(flip=True)):
        assert one.shape == picture.shape
        assert one.dtype == picture.dtype
        assert channels < 4 or (one[:, :, 3] == 77).all()


def test_beyond_its_edges_a_picture_goes_on_in_its_mirror() -> None:
    white = np.full((20, 30, 3), 255, dtype=np.uint8)
    assert all((one == 255).all() for one in many(white, only(rotation=180, zoom=0.5, shift=0.3)))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image_backbone(tmp_path_factory.mktemp("backbone"))


def task_with(folder: Path, backbone: Path, **augment: float) -> Task:
    save_pictures(folder / "pictures", 12)
    training = {"epochs": 3, "stages": 1, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32"}
    return write_task(folder, backbone, training={**training, "augment": augment}, export={"features": 4, "golden": 3})


def test_a_view_depends_on_seed_number_and_content_alone(tmp_path: Path, backbone: Path) -> None:
    task = task_with(tmp_path, backbone, views=2)
    rows = read_dataset(task).parts.train
    files = ImageFiles(ImageSpec(height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3, max_pixels=10_000))

    def views(chosen: list[int], settings: object = task.training) -> list[list[View]]:
        some = [rows[index] for index in chosen]
        return views_of(some, files.encode([row.input for row in some]), settings)  # type: ignore[arg-type]

    first, second = views([0, 1])
    assert np.array_equal(first[0].pixels, first[0].pixels)
    assert np.array_equal(first[0].pixels, views([1, 0])[0][1].pixels)
    assert not np.array_equal(first[0].pixels, second[0].pixels)
    other = task.training.model_copy(update={"seed": 1})
    assert not np.array_equal(first[0].pixels, views([0], other)[0][0].pixels)


def test_only_training_has_views_and_each_epoch_takes_another(tmp_path: Path, backbone: Path) -> None:
    task = task_with(tmp_path, backbone, views=2)
    parts, card = read_dataset(task).parts, open_backbone(task.backbone)
    preprocessor = preprocessor_of(task, card)
    network = Network(encoder_of(card, preprocessor), labels=3, frozen=0.5, seed=0)
    small = task.model_copy(update={"training": task.training.model_copy(update={"cache_bytes": 0})})
    reader = Reader(Source(small, card, preprocessor, parts), network, torch.float32, tmp_path, Clock())
    train, validation = reader.material()
    assert (len(train.views), len(validation.views)) == (2, 0)
    ways = [train.hidden.batch([4]), *(view.batch([4]) for view in train.views)]
    shown = [train.batch([4, 5], epoch) for epoch in range(4)]
    assert [next(way for way in range(3) if one.states[:1].equal(ways[way].states)) for one in shown] == [1, 2, 0, 1]
    assert shown[1].states[1:].equal(train.hidden.batch([5]).states)  # its neighbour is not changed in that epoch
    assert len(list(tmp_path.glob("*.hidden"))) == 4


def test_texts_have_no_views(tmp_path: Path, backbone: Path) -> None:
    with pytest.raises(ConfigError, match="only pictures have views"):
        write_task(tmp_path, backbone, input="text", training={"augment": {"views": 1}})


def test_pictures_have_no_tokens(tmp_path: Path, backbone: Path) -> None:
    with pytest.raises(ConfigError, match=r"only texts have tokens; training.augment.views is for pictures"):
        write_task(tmp_path, backbone, training={"token_dropout": 0.1})
