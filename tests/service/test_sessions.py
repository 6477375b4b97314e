"""The provider that was asked for or none, and the same answers as ONNX Runtime gives without bound memory."""

import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from regraft.errors import NotReady, VersionRefused
from service.parts import Parts
from service.sessions import NAMES, OPTIONS, Provider, Session, options
from tests.fakes import tiny_version
from tests.service import gpu
from tests.service.conftest import installation_in

OUTPUTS = ("probabilities", "features")
WITH_CUDA = NAMES["cuda"] in onnxruntime.get_available_providers()


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    tiny_version(tmp_path, "v1")
    return tmp_path / "v1" / "model.onnx"


def inputs(batch: int, tokens: int, seed: int = 0) -> dict[str, NDArray[np.int64]]:
    ids = np.random.default_rng(seed).integers(2, 60, (batch, tokens))
    return {"input_ids": ids, "attention_mask": (ids > 10).astype(np.int64) | (np.arange(tokens) == 0)}


@pytest.fixture
def unbound(graph: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])


def test_bound_memory_changes_no_bit(graph: Path, unbound: onnxruntime.InferenceSession) -> None:
    session = Session(graph, "cpu")
    for batch, tokens in ((1, 1), (3, 17), (8, 64), (2, 5)):
        tensors = inputs(batch, tokens)
        for bound, plain in zip(session.run(OUTPUTS, tensors), unbound.run(OUTPUTS, tensors), strict=True):
            assert bound.shape[0] == batch
            np.testing.assert_array_equal(bound, plain)


def test_arrays_that_are_not_contiguous_are_bound_as_they_read(
    graph: Path, unbound: onnxruntime.InferenceSession
) -> None:
    tensors = {name: array[::2, ::3] for name, array in inputs(8, 30).items()}
    expected = unbound.run(OUTPUTS, {name: np.ascontiguousarray(array) for name, array in tensors.items()})
    for bound, plain in zip(Session(graph, "cpu").run(OUTPUTS, tensors), expected, strict=True):
        np.testing.assert_array_equal(bound, plain)


def test_runs_side_by_side_do_not_share_memory(graph: Path, unbound: onnxruntime.InferenceSession) -> None:
    session = Session(graph, "cpu")
    work = [inputs(1 + seed % 8, 4 + seed % 29, seed) for seed in range(200)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda tensors: session.run(OUTPUTS, tensors), work))
    for tensors, outputs in zip(work, found, strict=True):
        for bound, plain in zip(outputs, unbound.run(OUTPUTS, tensors), strict=True):
            np.testing.assert_array_equal(bound, plain)


def test_an_answer_outlives_the_runs_after_it(graph: Path) -> None:
    session = Session(graph, "cpu")
    first = session.run(OUTPUTS, inputs(4, 9, seed=1))
    kept = [array.copy() for array in first]
    for seed in range(2, 20):
        session.run(OUTPUTS, inputs(4, 9, seed=seed))
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_a_run_keeps_to_one_thread(provider: Provider) -> None:
    ((name, given),), session = options(provider)
    assert (name, given) == (NAMES[provider], OPTIONS[provider])
    assert (session.intra_op_num_threads, session.inter_op_num_threads) == (1, 1)


@pytest.mark.skipif(not WITH_CUDA, reason="this ONNX Runtime is the package without CUDA")
def test_the_cuda_library_knows_every_option() -> None:
    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for name in OPTIONS["cuda"]:
            assert content.find(b"\0%s\0" % name.encode()) >= 0, name


async def test_a_service_without_the_gpu_it_was_told_to_use_is_not_ready_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    why = gpu.missing()
    if not why:
        pytest.skip("there is a GPU here")
    installation = installation_in(tmp_path)
    installation.publish("v1")
    installation.release("v1")
    parts = Parts.assemble(installation.settings.model_copy(update={"provider": "cuda"}))
    await parts.start()
    try:
        assert not parts.following.ready
        assert parts.following.refused == {"v1": f"version v1: {why}"}
        assert why in caplog.text
        with pytest.raises(NotReady, match="version v1: asked for CUDAExecutionProvider"):
            _ = parts.following.serving
    finally:
        await parts.close()


def test_a_provider_that_this_onnx_runtime_does_not_have_is_named(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(VersionRefused, match="asked for CUDAExecutionProvider, this ONNX Runtime has CPUExecution"):
        Session(graph, "cuda")
