"""What everybody is measured on: one version, the same texts, and the answer of ONNX Runtime to each text alone.

Also the limit: how many texts a second the two processors can do when nothing but ONNX Runtime runs.
"""

import csv
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.serving.figures import Limit, quantile
from regraft.preprocessing import Encoding, TextPreprocessor
from regraft.versions import VersionStore

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache" / "serving"
VERSIONS = WORK / "home" / "versions"
VERSION = "benchmark"
TASK = Path(__file__).with_name("task.yaml")
DATA = ROOT / "examples" / "reviews" / "data"
SOURCES = ("tweets.csv", "amazon_live.csv")
TEXTS = 2_000
SEED = 0
BATCH = 8
SESSIONS = 2


@dataclass(frozen=True)
class Expected:
    """What ONNX Runtime answers to each of `texts` alone."""

    texts: list[str]
    labels: list[str]
    probabilities: list[list[float]]

    def first(self, count: int) -> "Expected":
        return Expected(self.texts[:count], self.labels[:count], self.probabilities[:count])


class Raw:
    """ONNX Runtime in this process, two sessions of one thread each, with nothing around it."""

    def __init__(self) -> None:
        store = VersionStore(str(VERSIONS))
        self.folder = store.fetch(VERSION)
        manifest = store.manifest(VERSION)
        self.labels = manifest.labels
        self.precision = manifest.serve_cpu
        self.preprocessor = TextPreprocessor.load(self.folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._sessions = [
            onnxruntime.InferenceSession(
                str(self.folder / manifest.artifacts[manifest.serve_cpu].file),
                options,
                providers=["CPUExecutionProvider"],
            )
            for _ in range(SESSIONS)
        ]

    def limit(self, encodings: Sequence[Encoding], texts: Sequence[str], seconds: float) -> Limit:
        """Two measurements of `seconds` each: batches of 8 over all `encodings` sorted by length, tensors made
        beforehand, in both sessions; then `texts` one by one in one session, from text to probabilities."""
        ordered = sorted(encodings, key=lambda encoding: encoding.length)
        batches = [self.preprocessor.collate(ordered[start : start + BATCH]) for start in range(0, len(ordered), BATCH)]
        random.Random(SEED).shuffle(batches)  # so that the time may end anywhere
        cpu = time.process_time()
        with ThreadPoolExecutor(SESSIONS) as threads:
            runs = [
                threads.submit(_run_for, session, batches[place::SESSIONS], seconds)
                for place, session in enumerate(self._sessions)
            ]
            done = sum(run.result() for run in runs)
        cpu_ms = (time.process_time() - cpu) / done * 1000
        taken = self._one_by_one_ms(texts, seconds)
        p50, p99 = quantile(taken, 0.5), quantile(taken, 0.99)
        return Limit(done / seconds, cpu_ms, p50, p99, 1000 * len(taken) / sum(taken))

    def _one_by_one_ms(self, texts: Sequence[str], seconds: float) -> list[float]:
        taken, until = [], time.perf_counter() + seconds
        for text in texts:
            started = time.perf_counter()
            if started > until:
                break
            self._alone(self._sessions[0], text)
            taken.append((time.perf_counter() - started) * 1000)
        return taken

    def answers(self, texts: Sequence[str]) -> Expected:
        with ThreadPoolExecutor(SESSIONS) as threads:
            halves = [
                threads.submit(lambda one, part: [self._alone(one, text) for text in part], session, texts[place::2])
                for place, session in enumerate(self._sessions)
            ]
            found: list[Any] = [None] * len(texts)
            for place, half in enumerate(halves):
                found[place::2] = half.result()
        return Expected(list(texts), [self.labels[int(row.argmax())] for row in found], [row.tolist() for row in found])

    def _alone(self, session: Any, text: str) -> Any:
        tensors = self.preprocessor.collate(self.preprocessor.encode([text]))
        return session.run(["probabilities"], tensors)[0][0]


def _run_for(session: Any, batches: Sequence[dict[str, Any]], seconds: float) -> float:
    """Texts done in exactly `seconds`: the last batch counts for the part of it that lay within."""
    done, started = 0, time.perf_counter()
    before = 0.0
    while True:
        for batch in batches:
            session.run(["probabilities"], batch)
            after = time.perf_counter() - started
            if after > seconds:
                return done + len(batch["input_ids"]) * (seconds - before) / (after - before)
            done, before = done + len(batch["input_ids"]), after


def texts(count: int = TEXTS) -> list[str]:
    """`count` real tweets and review snippets, always the same, in an order without meaning."""
    found: list[str] = []
    for name in SOURCES:
        with (DATA / name).open(newline="", encoding="utf-8") as stream:
            found += [row["text"] for row in csv.DictReader(stream)]
    return random.Random(SEED).sample(found, count)
