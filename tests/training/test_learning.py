"""Where training starts, who takes part in it, and what it may leave behind."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from regraft.task import Task
from tests.training import test_images
from tests.training.conftest import examples, save_backbone, write_task
from tests.training.pictures import save_image_backbone, save_pictures
from tests.training.test_regression import rated, write_numbers
from training import network
from training.backbone import open_backbone
from training.clock import Clock
from training.dataset import read_dataset
from training.kinds import preprocessor_of
from training.learning import SUFFIX, Learned, Source, learn

NO_CHANCE = {"learning_rate": 1e-9, "epochs": 1}


def source_of(task: Task, **settings: object) -> Source:
    task = task.model_copy(update={"training": task.training.model_copy(update=settings)})
    card = open_backbone(task.backbone)
    parts = read_dataset(task).parts
    return Source(task, card, preprocessor_of(task, card), parts)


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> tuple[Task, Learned, Path]:
    folder = tmp_path_factory.mktemp("production")
    task = Task.load(write_task(folder, backbone, examples(300)))
    learned = learn(source_of(task, epochs=2), folder, Clock())
    save_file({name: value.contiguous() for name, value in learned.changed().items()}, folder / SUFFIX)
    return task, learned, folder


def test_it_goes_on_from_production_where_that_is_better(
    production: tuple[Task, Learned, Path], tmp_path: Path
) -> None:
    task, before, folder = production
    learned = learn(source_of(task, **NO_CHANCE), tmp_path, Clock(), warm=folder)
    assert learned.started_from == "production"
    assert learned.progress.best == pytest.approx(before.progress.best, abs=0.02)
    assert learned.others["backbone"] < learned.progress.best
    # All that differs from the backbone travels, and taking it away gives the backbone back.
    assert learned.changed().keys() == before.changed().keys()
    learned.undo()
    assert all(torch.equal(value, before.untouched[name]) for name, value in learned.changed().items())


def test_it_starts_from_the_backbone_where_production_is_no_better(
    production: tuple[Task, Learned, Path], tmp_path: Path
) -> None:
    task, _, folder = production
    spoilt = {name: torch.full_like(value, 1e3) for name, value in load_file(folder / SUFFIX).items()}
    save_file(spoilt, tmp_path / SUFFIX)
    learned = learn(source_of(task, epochs=2), tmp_path / "run", Clock(), warm=tmp_path)
    assert learned.started_from == "backbone"
    assert learned.others.keys() == {"production"}


@pytest.mark.parametrize("suffix", [{"head.weight": torch.zeros(7, 32)}, {"elsewhere": torch.zeros(1)}, None])
def test_production_of_another_shape_is_no_place_to_start_from(
    production: tuple[Task, Learned, Path], tmp_path: Path, suffix: dict[str, torch.Tensor] | None
) -> None:
    if suffix:
        save_file(suffix, tmp_path / SUFFIX)
    learned = learn(source_of(production[0], **NO_CHANCE), tmp_path / "run", Clock(), warm=tmp_path)
    assert (learned.started_from, learned.others) == ("backbone", {})


def test_it_can_be_called_again_when_it_was_through(production: tuple[Task, Learned, Path], tmp_path: Path) -> None:
    """Also after the stage in which the better start was found."""
    task, _, folder = production
    source = source_of(task, epochs=1, stages=2, stage_epochs=1, force=True)
    once, again = (learn(source, tmp_path, Clock(), warm=folder) for _ in range(2))
    assert once.progress.curve == again.progress.curve
    assert all(torch.equal(value, again.changed()[name]) for name, value in once.changed().items())


# Two processes that train together on one task after another, since importing takes longer than training.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from regraft.task import Task
from tests.training.test_learning import curve_of, source_of
from training import network
from training.clock import Clock
from training.dataset import read_dataset
from training.learning import learn
from training.outputs import over_all
from training.processes import join
from training.train import take_part

network.DROPOUT = 0.0
team = join()
assert (team.count, team.agree(team.index)) == (2, 0)
for file in map(Path, sys.argv[1:]):
    source, folder = source_of(Task.load(file)), file.parent / "two"
    if team.is_main:
        learned = learn(source, folder, Clock(), team=team)
        again = over_all(learned.network, learned.material.validation.hidden, learned.reader.dtype)
        off = float(abs(again.logits - learned.validated.logits).max())
        print(json.dumps([curve_of(learned), learned.network.head.weight.tolist(), off]))
    else:
        take_part(source.task, read_dataset(source.task), folder, team)
    team.wait()
torch.distributed.destroy_process_group()
"""


class ByTwo(NamedTuple):
    """What two processes came to that trained together."""

    task: Task
    curve: list[list[float]]
    head: list[list[float]]
    off: float  # how far the network that is kept is from what both said of the validation part


def curve_of(learned: Learned) -> list[list[float]]:
    """With the macro F1 of labels, the R2 of numbers."""
    return [
        [point.train_loss, [*point.train.values()][-1], point.validation_loss, point.learning_rate]
        for point in learned.progress.curve
    ]


def trained_by_two(files: list[Path]) -> list[ByTwo]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *map(str, files)],
            env=shared | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=180) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    results = map(json.loads, said[0][0].splitlines()[-len(files) :])
    return [ByTwo(Task.load(file), *result) for file, result in zip(files, results, strict=True)]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ByTwo]:
    """Of texts with labels, of texts with numbers and of pictures; the backbone of texts has no dropout."""
    still = save_backbone(tmp_path_factory.mktemp("backbone") / "still")
    config = json.loads((still / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (still / "config.json").write_text(json.dumps(config))
    training: dict[str, Any] = {"epochs": 2, "stages": 2, "stage_epochs": 2, "force": True}
    training |= {"learning_rate": 5e-3, "batch_size": 7, "revisit": 0.5, "settle": 0.5}
    files = {
        "labels": write_task(tmp_path_factory.mktemp("labels"), still, examples(150), training=training),
        "numbers": write_numbers(tmp_path_factory.mktemp("numbers"), still, rated(150), training=training),
        "pictures": write_pictures(tmp_path_factory.mktemp("pictures")),
    }
    return dict(zip(files, trained_by_two([*files.values()]), strict=True))


def write_pictures(folder: Path) -> Path:
    save_pictures(folder / "pictures", 60)
    training = {"frozen": 0.5, "epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "few_shot": "off"}
    data = {"files": ["pictures"], "validation": 0.5}  # two batches, one for each
    test_images.write_task(folder, save_image_backbone(folder / "backbone"), training=training, data=data)
    return folder / "task.yaml"


@pytest.mark.parametrize("of", ["labels", "numbers"])
def test_two_processes_give_the_same_result_as_one(
    by_two: dict[str, ByTwo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    """But for the order in which floats are added; without dropout, which draws for each process on its own."""
    monkeypatch.setattr(network, "DROPOUT", 0.0)
    two = by_two[of]
    alone = learn(source_of(two.task), tmp_path, Clock())
    torch.testing.assert_close(torch.tensor(two.curve), torch.tensor(curve_of(alone)), rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.tensor(two.head), alone.network.head.weight.detach(), rtol=0, atol=1e-4)
    assert two.off < 1e-4


def test_two_processes_validate_the_network_that_is_kept(by_two: dict[str, ByTwo]) -> None:
    """Though each goes by the batch statistics of its own pictures."""
    assert by_two["pictures"].off < 1e-4
