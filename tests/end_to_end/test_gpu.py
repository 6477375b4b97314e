"""On a GPU, where there is one: the same answers, computed where they were asked for, and how many more of them.

pytest -m gpu -s      # -s shows the throughput
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from regraft.task import Task
from regraft.versions import Manifest, VersionStore
from service.models import Network, load
from service.sessions import NAMES, Provider, Session, options
from tests.service import gpu
from tests.training.conftest import examples, save_backbone, write_task
from training.dataset import read_dataset
from training.train import fine_tune, version_folder

pytestmark = pytest.mark.gpu

PROVIDER: Provider = "cuda"
OUTPUTS = ("probabilities", "features")
NEAR = {"fp32": 1e-4, "fp16": 1e-2}  # probabilities on the GPU and on the CPU


@pytest.fixture(scope="module", autouse=True)
def cuda() -> None:
    if why := gpu.missing():
        pytest.skip(f"cannot run here: {why}")


class Version(NamedTuple):
    task: Task
    store: VersionStore
    folder: Path
    manifest: Manifest
    texts: list[str]

    def serving(self, precision: str) -> Manifest:
        """The manifest, with this precision for GPUs."""
        return self.manifest.model_copy(update={"serve_gpu": precision})

    def publish(self, precision: str) -> str:
        name = f"{self.manifest.version}-{precision}"
        self.store.publish(self.folder, self.serving(precision).model_copy(update={"version": name}))
        return name


@pytest.fixture(scope="module")
def version(cuda: None, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Of MiniLM's width and depth; trained, exported and measured in the ordinary way, on the processor."""
    folder = tmp_path_factory.mktemp("version")
    rows = examples(300)
    backbone = save_backbone(folder / "backbone", layers=6, width=384)
    training = {"epochs": 1, "learning_rate": 1e-3}
    file = write_task(folder, backbone, rows, training=training, export={"fp16": True, "int8": False})
    task = Task.load(file)
    manifest = fine_tune(task, read_dataset(task), folder / "run", version="v")
    assert manifest.artifacts["fp16"].kept, manifest.artifacts["fp16"].reason
    texts = [text for _, text, _ in rows[:64]]
    return Version(task, VersionStore(str(folder / "versions")), version_folder(folder / "run"), manifest, texts)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
async def test_a_version_reproduces_its_golden_examples_and_answers(version: Version, precision: str) -> None:
    model = load(
        version.store, version.publish(precision), task=version.task, provider=PROVIDER, on_batch=lambda _, __: None
    )
    scores = await model.score(await model.encode(version.texts))
    on_cpu = Network(version.folder, version.manifest, "cpu")
    expected = on_cpu.run(on_cpu.preprocessor.encode(version.texts)).answers
    np.testing.assert_allclose([score.answers for score in scores], expected, atol=NEAR[precision])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_answer_does_not_depend_on_its_neighbours(version: Version, precision: str) -> None:
    network = Network(version.folder, version.serving(precision), PROVIDER)
    encodings = network.preprocessor.encode(version.texts)
    together = network.run(encodings).answers
    alone = np.concatenate([network.run([encoding]).answers for encoding in encodings])
    np.testing.assert_allclose(together, alone, atol=1e-3)
    np.testing.assert_array_equal(together.argmax(axis=1), alone.argmax(axis=1))


def test_no_heavy_step_is_left_to_the_processor(version: Version) -> None:
    for precision in ("fp32", "fp16"):
        providers, session = options(PROVIDER)
        session.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        file = str(version.folder / version.manifest.artifacts[precision].file)
        assigned = onnxruntime.InferenceSession(file, session, providers).get_provider_graph_assignment_info()
        places = {(node.op_type, part.ep_name) for part in assigned for node in part.get_nodes()}
        heavy = {name for kind, name in places if "MatMul" in kind or "Gemm" in kind or "Softmax" in kind}
        assert heavy == {NAMES[PROVIDER]}, precision


def test_bound_memory_changes_no_answer(version: Version) -> None:
    file = version.folder / version.manifest.artifacts["fp32"].file
    providers, session = options(PROVIDER)
    unbound = onnxruntime.InferenceSession(str(file), session, providers)
    for batch in (1, 3, 8):
        tensors = inputs(batch, seed=batch)
        for bound, plain in zip(
            Session(file, PROVIDER).run(OUTPUTS, tensors), unbound.run(OUTPUTS, tensors), strict=True
        ):
            np.testing.assert_allclose(bound, plain, atol=1e-5)


def test_runs_side_by_side_do_not_mix(version: Version) -> None:
    session = Session(version.folder / version.manifest.artifacts["fp32"].file, PROVIDER)
    work = [inputs(1 + seed % 8, seed=seed) for seed in range(100)]
    alone = [session.run(OUTPUTS, tensors) for tensors in work]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda tensors: session.run(OUTPUTS, tensors), work))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-5)


def test_the_gpu_answers_more_than_one_thread_of_the_processor(version: Version) -> None:
    """Texts of 32 tokens a second. The table says which `serving.max_batch` and `serving.sessions` are worth it."""
    found = {}
    measured: tuple[tuple[str, str, Provider, tuple[int, ...]], ...] = (
        ("processor fp32", "fp32", "cpu", (8, 32)),
        ("GPU fp32", "fp32", PROVIDER, (1, 8, 32, 128)),
        ("GPU fp16", "fp16", PROVIDER, (1, 8, 32, 128)),
    )
    for name, precision, provider, batches in measured:
        session = Session(version.folder / version.manifest.artifacts[precision].file, provider)
        for batch in batches:
            for threads in (1, 2):
                rate = found[name, batch, threads] = texts_per_second(session, batch, threads)
                print(f"{name:15} batch {batch:3} threads {threads}: {rate:10.0f}")
    assert found["GPU fp32", 32, 1] > found["processor fp32", 32, 1]


def texts_per_second(session: Session, batch: int, threads: int) -> float:
    """In half a second, or one run."""
    tensors = inputs(batch)
    session.run(OUTPUTS, tensors)  # memory is planned at the first run of a shape
    started = time.perf_counter()

    def runs(_: int) -> int:
        count = 0
        while not count or time.perf_counter() - started < 0.5:
            session.run(OUTPUTS, tensors)
            count += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        count = sum(pool.map(runs, range(threads)))
    return batch * count / (time.perf_counter() - started)


def inputs(batch: int, tokens: int = 32, seed: int = 0) -> dict[str, NDArray[Any]]:
    ids = np.random.default_rng(seed).integers(5, 1000, (batch, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
