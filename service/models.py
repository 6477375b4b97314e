"""A version, loaded: fetched, checked, warmed and ready to answer, or refused with the reason.

store -> files (against their hashes) -> preprocessor and session (against manifest, task and provider) -> golden
examples replayed -> warm runs -> Model. So a version that answers differently from what was measured never serves.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import InvalidInput, RegraftError, VersionRefused
from regraft.preprocessing import ImagePreprocessor, Preprocessor, fingerprint, load_preprocessor
from regraft.task import Task
from regraft.versions import Manifest, VersionStore, read_golden
from service.batching import Batcher, BatchRun, Made, Outputs, Score
from service.inputs import Input, Inputs
from service.journal import Journal
from service.sessions import Provider, Session

INLINE_CHARACTERS = 10_000  # tokenised on the event loop, in a few milliseconds at most; more goes to a thread


class Network:
    """The ONNX graph with its preprocessing. Several threads may run it at once: they share one copy of the weights."""

    def __init__(self, folder: Path, manifest: Manifest, provider: Provider) -> None:
        """Raises VersionRefused where the provider is not the one asked for."""
        self.precision = manifest.serve_gpu if provider == "cuda" else manifest.serve_cpu
        self.preprocessor: Preprocessor = load_preprocessor(folder)
        self._outputs = (manifest.answers.output, "features")
        self._session = Session(folder / manifest.artifacts[self.precision].file, provider)

    def run(self, encodings: Sequence[Any]) -> Outputs:
        return Outputs(*self._session.run(self._outputs, self.preprocessor.collate(encodings)))


class Model:
    """One version that answers. Its threads and its memory go when nothing refers to it any more."""

    def __init__(self, manifest: Manifest, network: Network, batcher: Batcher) -> None:
        self.version = manifest.version
        self.answers = manifest.answers
        self._preprocessor = network.preprocessor
        self._batcher = batcher

    async def encode(self, inputs: Inputs) -> Sequence[Any]:
        """Raises InvalidInput that names the input at fault."""
        if isinstance(self._preprocessor, ImagePreprocessor):
            return await self._decode(inputs)
        try:
            if sum(map(len, inputs)) <= INLINE_CHARACTERS:
                return self._preprocessor.encode(inputs)
            return await asyncio.to_thread(self._preprocessor.encode, inputs)
        except InvalidInput:
            self._explain(inputs)
            raise

    async def score(self, encodings: Sequence[Any]) -> list[Score]:
        """Raises Overloaded, or what ONNX Runtime raised."""
        return await self._batcher.score(encodings)

    async def log(self, encodings: Sequence[Any], made: Made, journal: Journal) -> bool:
        """Whether what `made` makes of the scores, in a session's thread, is in the event log. Raises as `score`."""
        return await self._batcher.log(encodings, made, journal)

    async def _decode(self, images: Inputs) -> Sequence[Any]:
        """Side by side in threads, as it takes milliseconds an image; the first that is none is named."""
        work = (asyncio.to_thread(self._preprocessor.encode, [one]) for one in images)
        outcomes = await asyncio.gather(*work, return_exceptions=True)
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, InvalidInput):
                raise _named(outcome, index, len(images))
            if isinstance(outcome, BaseException):
                raise outcome
        return [encoding for one in outcomes if not isinstance(one, BaseException) for encoding in one]

    def _explain(self, texts: Inputs) -> None:
        for index, text in enumerate(texts):
            try:
                self._preprocessor.check(text)
            except InvalidInput as error:
                raise _named(error, index, len(texts)) from error


def _named(error: InvalidInput, index: int, count: int) -> InvalidInput:
    name = "input" if count == 1 else f"inputs[{index}]"
    return InvalidInput(f"{name}: {error.message}", index=index)


def load(
    store: VersionStore,
    version: str,
    *,
    task: Task,
    provider: Provider,
    on_batch: Callable[[str, BatchRun], None],
) -> Model:
    """Raises VersionRefused for a version that must not serve; whatever the store raises when it cannot be reached."""
    folder = store.fetch(version)
    manifest = store.manifest(version)
    try:
        _check_task(manifest, task)
        network = Network(folder, manifest, provider)
        _check_network(network, manifest, folder)
        _warm_up(network, task.serving.max_batch, read_golden(folder)[0]["input"])
    except RegraftError as error:
        raise VersionRefused(f"version {version}: {error.message}", version=version) from error
    except Exception as error:
        raise VersionRefused(f"version {version} cannot be loaded: {error}", version=version) from error
    batcher = Batcher(
        network.run,
        sessions=task.serving.sessions,
        max_batch=task.serving.max_batch,
        max_queue=task.serving.max_queue,
        on_batch=lambda run: on_batch(version, run),
    )
    return Model(manifest, network, batcher)


def _check_task(manifest: Manifest, task: Task) -> None:
    if manifest.task != task.name:
        raise VersionRefused(f"was trained for task {manifest.task!r}, this is {task.name!r}")
    if manifest.input != task.input:
        raise VersionRefused(f"takes an input of kind {manifest.input!r}, the task has {task.input!r}")
    if manifest.answers != task.answers:
        raise VersionRefused(f"answers with {manifest.answers}, the task has {task.answers}")


def _check_network(network: Network, manifest: Manifest, folder: Path) -> None:
    """Replays the golden examples: the same tensors to the bit, the same answers within the tolerance."""
    if network.preprocessor.sha256 != manifest.preprocessing_sha256:
        raise VersionRefused("its preprocessing is not the one in its manifest")
    examples = read_golden(folder)
    if not examples:
        raise VersionRefused("has no golden examples")
    for number, example in enumerate(examples):
        _replay(network, manifest, number, example)


def _replay(network: Network, manifest: Manifest, number: int, example: dict[str, Any]) -> None:
    encodings = network.preprocessor.encode([example["input"]])
    tensors = network.preprocessor.collate(encodings)
    for name, tensor in example["tensors"].items():
        if not _same(tensor, tensors[name]):
            raise VersionRefused(f"golden example {number} is preprocessed to other {name}")
    outputs = network.run(encodings)
    expected = example.get("by_precision", {}).get(network.precision, example.get("probabilities"))
    difference = manifest.answers.difference(outputs.answers[0], np.asarray(expected), manifest.unit)
    tolerance = manifest.artifacts[network.precision].tolerance or manifest.tolerance
    if not difference <= tolerance:  # not a number is no reproduction either
        raise VersionRefused(f"golden example {number} is answered with a difference of {difference:.2g}")
    if outputs.features.shape != (1, manifest.features):
        raise VersionRefused(f"gives {outputs.features.shape[1]} features, its manifest says {manifest.features}")


def _same(expected: list[int] | str, tensor: NDArray[Any]) -> bool:
    """To the bit; `expected` is the tensor of one example, or its fingerprint."""
    if isinstance(expected, str):
        return fingerprint(tensor[0]) == expected
    return np.array_equal(np.atleast_2d(expected), tensor)


def _warm_up(network: Network, max_batch: int, example: Input) -> None:
    """ONNX Runtime plans its memory at the first run of a shape; the first callers should not wait for that."""
    (encoding,) = network.preprocessor.encode([example])
    for size in {1, max_batch}:
        network.run([encoding] * size)
