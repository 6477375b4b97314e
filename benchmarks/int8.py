"""How fast a version's artifacts answer on a processor, against the network that they were made of in plain PyTorch.

    python -m benchmarks.int8 examples/fashion/task.yaml FOLDER_OF_A_VERSION

Inputs of the task are prepared beforehand and sorted by length; each way runs them in batches of the same. The best of
`ROUNDS` counts. Processor time is that of all threads; PyTorch is given its best layout for images too.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime
import timm
import torch
from torch import Tensor, nn

from regraft.preprocessing import Preprocessor
from regraft.task import Task
from regraft.versions import Manifest
from training.backbone import BackboneCard, open_backbone
from training.data import spread
from training.dataset import read_dataset
from training.kinds import encoder_of, preprocessor_of
from training.network import Network

INPUTS = 64
ROUNDS = 3
BATCHES = (1, 8, 32)
THREADS = (1, 2)


class Speed(NamedTuple):
    """Inputs a second."""

    wall: float
    processor: float  # of processor time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("version", type=Path)
    given = parser.parse_args()
    task = Task.load(given.task)
    manifest = Manifest.model_validate_json((given.version / "manifest.json").read_bytes())
    card = open_backbone(task.backbone)
    preprocessor = preprocessor_of(task, card)
    rows = spread(read_dataset(task).parts.validation, INPUTS)
    encodings = sorted(preprocessor.encode([row.input for row in rows]), key=lambda one: one.length)
    networks = in_pytorch(task, card, preprocessor)
    print(f"{'':28} batch threads   wall/s  cpu/s   int8 is faster by (wall, cpu)")
    for threads in THREADS:
        torch.set_num_threads(threads)
        files = {name: given.version / one.file for name, one in manifest.artifacts.items() if one.kept}
        sessions = {name: opened(file, threads) for name, file in files.items()}
        for size in BATCHES:
            batches = [
                preprocessor.collate(encodings[start : start + size]) for start in range(0, len(encodings), size)
            ]
            speeds = {f"ONNX Runtime {name}": speed(partial(one.run, None), batches) for name, one in sessions.items()}
            tensors = [[torch.from_numpy(one) for one in batch.values()] for batch in batches]
            speeds |= {name: speed(partial(run, one), tensors) for name, one in networks.items()}
            best = speeds.get("ONNX Runtime int8")
            for name, one in speeds.items():
                ratio = f"{best.wall / one.wall:10.2f} {best.processor / one.processor:6.2f}" if best else ""
                print(f"{name:28} {size:5} {threads:7} {one.wall:8.1f} {one.processor:7.1f} {ratio}", flush=True)
    for name, artifact in manifest.artifacts.items():
        print(f"{name}: accuracy on validation {artifact.accuracy}, kept: {artifact.kept}, {artifact.reason}")


def opened(file: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def in_pytorch(task: Task, card: BackboneCard, preprocessor: Preprocessor) -> dict[str, nn.Module]:
    """The same network in float32, for images in both layouts; weights do not matter to how fast it is."""
    network = Network(encoder_of(card, preprocessor), labels=len(task.labels), frozen=0.75, seed=0)
    if task.input == "text":
        return {"PyTorch eager": network.eval()}
    plain = timm.create_model(card.model_type, num_classes=len(task.labels))
    return {"PyTorch eager, as it comes": plain.eval(), "PyTorch eager, channels last": network.eval()}


def run(network: nn.Module, tensors: Sequence[Tensor]) -> Any:
    with torch.inference_mode():
        return network(*tensors)


def speed(answer: Callable[[Any], Any], batches: Sequence[Any]) -> Speed:
    answer(batches[0])
    wall, processor = float("inf"), float("inf")
    for _ in range(ROUNDS):
        started, used = time.perf_counter(), time.process_time()
        for batch in batches:
            answer(batch)
        wall, processor = min(wall, time.perf_counter() - started), min(processor, time.process_time() - used)
    return Speed(INPUTS / wall, INPUTS / processor)


if __name__ == "__main__":
    main()
