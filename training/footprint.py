"""What one artifact takes to answer, alone in a process of its own: time of a request, and memory.

    python -m training.footprint VERSION_FOLDER FILE -> JSON

Run apart, because the process that trains holds PyTorch and the data. Golden examples are asked one at a time, on one
thread, from the raw input on.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from pydantic import BaseModel, ConfigDict

from regraft.preprocessing import Preprocessor, load_preprocessor
from regraft.versions import read_golden

ROUNDS = 150
WARM_UP = 10
SECONDS = 5  # after which fewer rounds will do
GIVE_UP = 300  # seconds


class Footprint(BaseModel):
    model_config = ConfigDict(frozen=True)

    p50_ms: float
    p99_ms: float
    peak_bytes: int  # of the whole process


def measure(folder: Path, file: str) -> Footprint:
    command = [sys.executable, "-m", "training.footprint", str(folder), file]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIVE_UP)
    return Footprint.model_validate_json(run.stdout)


def peak_bytes() -> int:
    """The most memory that this process held so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # elsewhere a process starts with the peak of the one that started it
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(folder: Path, file: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / file, options, providers=["CPUExecutionProvider"])
    answers = session.get_outputs()[0].name
    preprocessor: Preprocessor = load_preprocessor(folder)
    inputs = [example["input"] for example in read_golden(folder)]
    took: list[float] = []
    while len(took) < WARM_UP + ROUNDS and sum(took) < SECONDS:
        started = time.perf_counter()
        session.run([answers], preprocessor.collate(preprocessor.encode([inputs[len(took) % len(inputs)]])))
        took.append(time.perf_counter() - started)
    p50, p99 = 1000 * np.quantile(took[WARM_UP:] or took, [0.5, 0.99])
    print(
        Footprint(p50_ms=round(float(p50), 2), p99_ms=round(float(p99), 2), peak_bytes=peak_bytes()).model_dump_json()
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
