"""Texts a second and latency of every server, beside the limit: ONNX Runtime alone on the same processors.

In each round: the limit, then every server at every concurrency, one server at a time, in an order that turns from
round to round. Ratios are taken within a round; what is shown are medians over the rounds.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.serving.contenders import ECHO, Contender, Server, ask, contenders, running
from benchmarks.serving.load import Job, Outcome
from benchmarks.serving.material import SESSIONS, Expected, Raw, texts

CONCURRENCIES = (1, 8, 32, 64)
WARM_SECONDS = 1.0
QUIET_LOAD = 0.3  # of other programs, before the start


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `cpu_ms` is processor time of the server's processes for each text, which other programs on the machine disturb
    least; `generator_cpu` is the share of one processor that the load generator took.
    """

    server: str
    protocol: str
    logging: str
    concurrency: int
    texts_per_s: float
    ratio: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_ms: float = 0.0
    answered: int = 0
    failed: int = 0
    wrong: int = 0
    generator_cpu: float = 0.0


def main() -> None:
    options = _options()
    load = os.getloadavg()[0]
    if load > QUIET_LOAD:
        _say(f"this machine is busy (load {load:.1f}): trust the ratios more than the figures, and neither much")
    raw, asked = Raw(), texts()
    _say(f"asking ONNX Runtime for the right answers to {len(asked)} texts ({raw.precision})")
    expected = raw.answers(asked)
    chosen = [
        one
        for one in contenders(options.logging, options.kafka)
        if not options.servers or one.server in options.servers
    ]
    rows: list[Row] = []
    for number in range(options.rounds):
        alone, most = _limit(raw, asked, options.seconds)
        rows += alone, most
        turn = number % max(len(chosen), 1)
        for contender in [*chosen[turn:], *chosen[:turn]]:
            _say(f"round {number + 1} of {options.rounds}: {contender.name}")
            rows += _measure(contender, expected, most.texts_per_s, options)
    _measure_generator(expected)
    table = summary(rows)
    print("\n".join(show(table)))
    if options.json:
        options.json.write_text("".join(json.dumps(asdict(row)) + "\n" for row in table))
    if any(row.failed or row.wrong for row in table if row.server == "regraft"):
        sys.exit("regraft failed or answered wrongly")


def _limit(raw: Raw, asked: Sequence[str], seconds: float) -> tuple[Row, Row]:
    """One text after the other, and the most that can be done."""
    encodings = raw.preprocessor.encode(asked)
    raw.texts_per_second(encodings, WARM_SECONDS)
    limit, cpu = raw.texts_per_second(encodings, seconds)
    taken = raw.one_by_one_ms(asked, seconds)
    alone = 1000 * len(taken) / sum(taken)
    p50, p99 = taken[len(taken) // 2], taken[int(len(taken) * 0.99)]
    return (
        Row("ONNX Runtime, one by one", "in process", "", 1, alone, alone / limit, p50, p99),
        Row("ONNX Runtime, sorted by 8", "in process", "", SESSIONS, limit, 1.0, cpu_ms=cpu * 1000),
    )


def _measure(contender: Contender, expected: Expected, limit: float, options: argparse.Namespace) -> Iterator[Row]:
    with running(contender, expected.texts[0]) as server:
        for protocol in contender.protocols:
            _ask(server, protocol, 8, 2 * WARM_SECONDS, expected)
            for concurrency in options.concurrency:
                outcome, cpu = _ask(server, protocol, concurrency, options.seconds, expected)
                for failure in outcome.failures:
                    _say(f"{contender.name}: {failure}")
                speed = outcome.answered / outcome.seconds
                yield Row(
                    server=contender.server,
                    protocol=protocol,
                    logging=contender.logging,
                    concurrency=concurrency,
                    texts_per_s=speed,
                    ratio=speed / limit,
                    p50_ms=outcome.p50_ms,
                    p99_ms=outcome.p99_ms,
                    cpu_ms=cpu * 1000,
                    answered=outcome.answered,
                    failed=outcome.failed,
                    wrong=outcome.wrong,
                    generator_cpu=outcome.own_cpu_seconds / outcome.seconds,
                )


def _ask(server: Server, protocol: str, concurrency: int, seconds: float, expected: Expected) -> tuple[Outcome, float]:
    """What came of it, and the processor seconds of the server for each text, those of the warm-up included."""
    before = server.cpu_seconds()
    job = Job(server.port, protocol, concurrency, **asdict(expected), seconds=seconds, warm_seconds=WARM_SECONDS)
    outcome = ask(job)
    return outcome, (server.cpu_seconds() - before) / max(outcome.sent, 1)


def _measure_generator(expected: Expected) -> None:
    with running(ECHO, expected.texts[0]) as server:
        outcome, _ = _ask(server, "HTTP", 64, 2.0, expected)
    cost = outcome.own_cpu_seconds / outcome.answered * 1e6
    print(
        f"The load generator costs {cost:.0f} microseconds of processor time a request, and reached"
        f" {outcome.answered / outcome.seconds:,.0f} requests a second against a server that does nothing.\n"
    )


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row a server, protocol, logging and concurrency: medians of figures, sums of counts."""
    groups: dict[tuple[str, str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.server, row.protocol, row.logging, row.concurrency), []).append(row)
    return [_middle(group) for group in groups.values()]


def _middle(group: Sequence[Row]) -> Row:
    figures = ("texts_per_s", "ratio", "p50_ms", "p99_ms", "cpu_ms", "generator_cpu")
    counts = ("answered", "failed", "wrong")
    medians = {name: statistics.median(getattr(row, name) for row in group) for name in figures}
    sums = {name: sum(getattr(row, name) for row in group) for name in counts}
    return replace(group[0], **medians, **sums)


COLUMNS = (
    *("server", "protocol", "logging", "concurrency", "texts/s", "of the limit"),
    *("p50 ms", "p99 ms", "CPU ms a text", "failed", "wrong"),
)


def show(table: Sequence[Row]) -> Iterator[str]:
    yield _line(COLUMNS)
    yield _line(["---"] * 3 + ["--:"] * (len(COLUMNS) - 3))
    for row in table:
        milliseconds = (f"{value:.2f}" if value else "" for value in (row.p50_ms, row.p99_ms, row.cpu_ms))
        names = (row.server, row.protocol, row.logging, str(row.concurrency))
        speed = (f"{row.texts_per_s:,.0f}", f"{row.ratio:.2f}")
        yield _line([*names, *speed, *milliseconds, str(row.failed), str(row.wrong)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/serving/run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two short rounds, under five minutes")
    parser.add_argument("--rounds", type=int, help="default 5, quick 2")
    parser.add_argument("--seconds", type=float, help="of each measurement; default 8, quick 2")
    parser.add_argument("--concurrency", type=_numbers, default=CONCURRENCIES, help="such as 1,64")
    parser.add_argument("--servers", type=_names, default=(), help="only these, such as regraft,fastapi")
    parser.add_argument(
        "--logging", type=_names, default=("local",), help="durabilities of Regraft, such as local,broker"
    )
    parser.add_argument("--kafka", default="", help="for broker: the log's address, kafka://host:port/prefix")
    parser.add_argument("--json", type=Path, help="write one JSON object a row here")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (2.0 if options.quick else 8.0)
    return options


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
