"""Which versions may serve, and what a loaded one answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.errors import InvalidInput, NotFound, VersionRefused
from regraft.task import Task
from regraft.versions import Artifact, Manifest, VersionStore, read_golden
from service.batching import BatchRun
from service.models import Model, load
from tests.fakes import GOLDEN, Behaviour, tiny_task, tiny_version
from training.half import halve


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task.load(tiny_task(tmp_path))


def loaded(tmp_path: Path, task: Task) -> Model:
    return load(VersionStore(str(tmp_path / "versions")), "v1", task=task, provider="cpu", on_batch=_ignore)


async def answers(model: Model, *texts: str) -> list[list[float]]:
    return [score.answers for score in await model.score(await model.encode(texts))]


async def test_a_version_answers_as_its_graph_does(tmp_path: Path, task: Task) -> None:
    tiny_version(tmp_path / "versions", "v1")
    model = loaded(tmp_path, task)
    for text, probabilities in zip(
        ["so negative", "positive!"], await answers(model, "so negative", "positive!"), strict=True
    ):
        assert task.labels[int(np.argmax(probabilities))] in text


async def test_an_answer_does_not_depend_on_its_neighbours(tmp_path: Path, task: Task) -> None:
    tiny_version(tmp_path / "versions", "v1")
    model = loaded(tmp_path, task)
    texts = ["short", "a text that is a good deal longer than its neighbour", *GOLDEN]
    together = await answers(model, *texts)
    alone = [(await answers(model, text))[0] for text in texts]
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [("wrong_golden", "golden example 0 is answered with a difference"), ("corrupted", "model.onnx .* damaged")],
)
def test_a_version_that_is_not_what_was_measured_is_refused(
    tmp_path: Path, task: Task, behaviour: Behaviour, sentence: str
) -> None:
    tiny_version(tmp_path / "versions", "v1", behaviour=behaviour)
    with pytest.raises(VersionRefused, match=sentence):
        loaded(tmp_path, task)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": ("negative", "positive", "neutral")}, "answers with labels"),
        ({"task": "other"}, "was trained for task 'other'"),
        ({"preprocessing_sha256": "0" * 64}, "its preprocessing is not the one"),
        ({"features": 5}, "gives 8 features, its manifest says 5"),
        ({"serve_cpu": "int8"}, "cannot be loaded"),
    ],
)
def test_a_version_whose_manifest_does_not_fit_is_refused(
    tmp_path: Path, task: Task, change: dict[str, Any], sentence: str
) -> None:
    manifest = tiny_version(tmp_path / "versions", "v1")
    rewrite(tmp_path, manifest.model_copy(update=change))
    with pytest.raises(VersionRefused, match=f"version v1.* {sentence}"):
        loaded(tmp_path, task)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (r'"attention_mask": [1', r'"attention_mask": [0', "golden example 0 is preprocessed to other attention_mask"),
        (r'"examples"', r'"nothing"', "cannot be loaded"),
    ],
)
def test_a_version_that_preprocesses_differently_is_refused(
    tmp_path: Path, task: Task, old: str, new: str, sentence: str
) -> None:
    manifest = tiny_version(tmp_path / "versions", "v1")
    golden = tmp_path / "versions" / "v1" / "golden.json"
    golden.write_text(golden.read_text().replace(old, new))
    unhashed = {name: entry for name, entry in manifest.files.items() if name != "golden.json"}
    rewrite(tmp_path, manifest.model_copy(update={"files": unhashed}))
    with pytest.raises(VersionRefused, match=sentence):
        loaded(tmp_path, task)


def test_golden_examples_are_those_of_the_precision_that_serves(tmp_path: Path, task: Task) -> None:
    manifest = tiny_version(tmp_path / "versions", "v1")
    golden = tmp_path / "versions" / "v1" / "golden.json"
    examples = [
        example | {"by_precision": {"fp32": example["probabilities"]}, "probabilities": [1.0, 0.0, 0.0]}
        for example in read_golden(golden.parent)
    ]
    golden.write_text(json.dumps({"examples": examples}))
    rewrite(tmp_path, manifest.model_copy(update={"files": {}}))
    assert loaded(tmp_path, task).version == "v1"


@pytest.mark.parametrize(("tolerance", "serves"), [(0.01, True), (None, False)])
def test_fp16_may_be_further_from_its_golden_examples_where_its_artifact_says_so(
    tmp_path: Path, task: Task, tolerance: float | None, serves: bool
) -> None:
    manifest = tiny_version(tmp_path / "versions", "v1")
    folder = tmp_path / "versions" / "v1"
    halve(folder / "model.onnx", folder / "model.fp16.onnx")
    examples = [
        example | {"by_precision": {"fp16": [share + 0.005 for share in example["probabilities"]]}}
        for example in read_golden(folder)
    ]
    (folder / "golden.json").write_text(json.dumps({"examples": examples}))
    half = Artifact(file="model.fp16.onnx", kept=True, reason="", tolerance=tolerance)
    rewrite(tmp_path, manifest.model_copy(update={"files": {}, "artifacts": {"fp16": half}, "serve_cpu": "fp16"}))
    if serves:
        assert loaded(tmp_path, task).version == "v1"
    else:
        with pytest.raises(VersionRefused, match="golden example 0 is answered with a difference"):
            loaded(tmp_path, task)


def test_a_version_without_golden_examples_is_refused(tmp_path: Path, task: Task) -> None:
    manifest = tiny_version(tmp_path / "versions", "v1")
    (tmp_path / "versions" / "v1" / "golden.json").write_text('{"examples": []}')
    rewrite(tmp_path, manifest.model_copy(update={"files": {}}))
    with pytest.raises(VersionRefused, match="has no golden examples"):
        loaded(tmp_path, task)


def test_a_version_that_is_not_there_is_not_found(tmp_path: Path, task: Task) -> None:
    with pytest.raises(NotFound):
        loaded(tmp_path, task)


async def test_the_input_at_fault_is_named(tmp_path: Path, task: Task) -> None:
    tiny_version(tmp_path / "versions", "v1")
    model = loaded(tmp_path, task)
    with pytest.raises(InvalidInput, match=r"inputs\[1\]: the text is empty") as caught:
        await model.encode(["fine", " "])
    assert caught.value.details == {"index": 1}
    with pytest.raises(InvalidInput, match="input: the text has 2001 characters; at most 2000 are taken"):
        await model.encode(["x" * 2001])


async def test_many_characters_are_tokenised_beside_the_event_loop(tmp_path: Path, task: Task) -> None:
    tiny_version(tmp_path / "versions", "v1")
    model = loaded(tmp_path, task)
    texts = [f"text number {number} {'x ' * 500}" for number in range(20)]
    assert await model.encode(texts) == [(await model.encode([text]))[0] for text in texts]


async def test_runs_are_reported_with_their_version(tmp_path: Path, task: Task) -> None:
    tiny_version(tmp_path / "versions", "v1")
    runs: list[tuple[str, BatchRun]] = []
    model = load(
        VersionStore(str(tmp_path / "versions")),
        "v1",
        task=task,
        provider="cpu",
        on_batch=lambda version, run: runs.append((version, run)),
    )
    await answers(model, "one", "two")
    ((version, run),) = runs
    assert (version, run.size) == ("v1", 2)
    assert 0 < run.seconds < 5


def rewrite(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "versions" / manifest.version / "manifest.json").write_text(manifest.model_dump_json())


def _ignore(version: str, run: BatchRun) -> None:
    pass
