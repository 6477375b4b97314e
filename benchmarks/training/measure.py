"""How long fine-tuning takes, and how good it gets: Regraft beside what people use, on the same rows and weights.

Each recipe in a process of its own, one after the other; for every seed all recipes, so that none has quieter hours.
"""

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.training import memory
from benchmarks.training.contenders import CONTENDERS, SCRATCH, WATCHED, Contender
from benchmarks.training.figures import Row, show, show_against, show_scratch
from benchmarks.training.material import DATA, DataSet, job_of
from training.evaluate import macro_f1

MANY = 100_000
QUIET_LOAD = 0.3  # of other programs, before the start
TUNED_ON = 0  # the seed
QUICK_ROWS = {"text": 1_000, "image": 200}


class Journal:
    """Rows in a file, one JSON object a line; each is there once it is measured, and is not measured again."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        lines = file.read_text().splitlines() if file and file.is_file() else []
        self.rows = [Row(**json.loads(line)) for line in lines]

    def find(self, key: tuple[str, str, int]) -> list[Row]:
        return [row for row in self.rows if row.key == key]

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if self._file:
            with self._file.open("a") as stream:
                stream.write(json.dumps(asdict(row)) + "\n")


class Bench:
    def __init__(self, measured: Journal, tried: Journal, tuned_on: int | None) -> None:
        """`tuned_on` is the seed on which rates are chosen; None: each takes its middle rate untried."""
        self.measured = measured
        self._tried = tried
        self._tuned_on = tuned_on

    def measure(self, contender: Contender, data: DataSet, seed: int) -> None:
        if self.measured.find((contender.name, data.name, seed)):
            return
        rate = self.rate(contender, data)
        here = self._tried.find((contender.name, data.name, seed))
        row = next((row for row in here if row.rate == rate), None) or run(contender, data, seed, rate)
        self.measured.add(row)

    def rate(self, contender: Contender, data: DataSet) -> float | None:
        """The best on validation, of those it is tried at on one seed."""
        if self._tuned_on is None or len(contender.rates) < 2:
            return contender.usual_rate
        for rate in contender.rates:
            there = self._tried.find((contender.name, data.name, self._tuned_on))
            if rate not in {row.rate for row in there}:
                self._tried.add(run(contender, data, self._tuned_on, rate))
        there = self._tried.find((contender.name, data.name, self._tuned_on))
        return max(there, key=lambda row: row.validation_macro_f1).rate


def run(contender: Contender, data: DataSet, seed: int, rate: float | None) -> Row:
    _say(f"{data.name}, seed {seed}: {contender.name}" + ("" if rate is None else f" at {rate:g}"))
    job = job_of(data, seed, rate)
    outcome = contender.run(job)
    truth, answers = np.array(job.test.labels), np.array(outcome.answers.test)
    row = Row(
        recipe=contender.name,
        data=data.name,
        seed=seed,
        seconds=round(outcome.seconds, 2),
        accuracy=float(np.mean(truth == answers)),
        macro_f1=macro_f1(truth, answers, job.classes),
        cpu_seconds=round(outcome.cpu_seconds, 2),
        validation_macro_f1=max(outcome.answers.curve),
        rate=rate,
        curve=outcome.answers.curve,
        moments=outcome.answers.moments,
        truth=job.test.labels,
        answers=outcome.answers.test,
    )
    _say(f"  {row.seconds:.1f} s ({row.cpu_seconds:.1f} of a processor), {row.accuracy:.3f}, {row.macro_f1:.3f}")
    return row


def main() -> None:
    options = _options()
    if options.memory:
        memory.main(options.memory)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    load = os.getloadavg()[0]
    if load > QUIET_LOAD:
        _say(f"this machine is busy (load {load:.1f}): trust the ratios more than the figures, and neither much")
    data = [DATA[name].few(QUICK_ROWS[DATA[name].kind]) if options.quick else DATA[name] for name in options.data]
    tried = options.json.with_suffix(".tried.jsonl") if options.json else None
    bench = Bench(Journal(options.json), Journal(tried), None if options.quick else TUNED_ON)
    contenders = (WATCHED, SCRATCH) if options.scratch else CONTENDERS
    for seed in options.seeds:
        for one in data:
            for contender in contenders:
                if one.kind in contender.kinds and (not options.only or contender.name in options.only):
                    bench.measure(contender, one, seed)
    rows = bench.measured.rows
    print("\n".join([*show(rows), "", *(show_scratch if options.scratch else show_against)(rows)]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/training/run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows, one seed, no rates tried: a few minutes")
    parser.add_argument("--only", type=_names, default=(), help="these recipes, such as regraft,trainer")
    parser.add_argument("--data", type=_names, default=tuple(DATA), help=f"default {','.join(DATA)}")
    parser.add_argument("--seeds", type=_numbers, help="default 0,1,2; rates are chosen on seed 0")
    parser.add_argument("--scratch", action="store_true", help="ours beside the same network from random weights")
    parser.add_argument("--memory", type=int, nargs="?", const=MANY, help=f"of training on {MANY:,} short texts")
    parser.add_argument("--json", type=Path, help="one JSON object a row; rows that are there are not measured again")
    options = parser.parse_args()
    options.seeds = options.seeds or ((0,) if options.quick else (0, 1, 2))
    known = {"--only": {one.name for one in CONTENDERS}, "--data": set(DATA)}
    for name, there in known.items():
        if unknown := set(getattr(options, name.removeprefix("--"))) - there:
            parser.error(f"{name}: no {min(unknown)}; there are {', '.join(sorted(there))}")
    return options


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(one) for one in text.split(","))


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
