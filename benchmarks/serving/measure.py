"""Texts a second and latency of every server, beside the limit: ONNX Runtime alone on the same processors.

In each round every server at every concurrency, one server at a time, in an order that turns from round to round. The
limit is measured before and after each protocol of each server, and its figures are held against the mean of the two,
so that it matters little when the machine is slower for a while. What is shown are medians over the rounds.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.serving.contenders import ECHO, OTHERS, REGRAFT_PROTOCOLS, Contender, Server, regraft, running
from benchmarks.serving.figures import Limit, Row, between, held_against, shares, show, summary
from benchmarks.serving.material import ROOT, SESSIONS, Expected, Raw, texts
from benchmarks.serving.neighbours import HEAD, compared

QUIET_LOAD = 0.3  # of other programs, before the start


@dataclass(frozen=True)
class Clock:
    """Seconds of each measurement, of the warm-up before it, and of each measurement of the limit."""

    seconds: float
    warm: float
    limit: float


class Bench:
    """What every measurement needs, and the limit as it was last."""

    def __init__(self, clock: Clock, concurrencies: Sequence[int]) -> None:
        self._clock = clock
        self._concurrencies = concurrencies
        self._raw, asked = Raw(), texts()
        _say(f"asking ONNX Runtime for the right answers to {len(asked)} texts ({self._raw.precision})")
        self.expected = self._raw.answers(asked)
        self._encodings = self._raw.preprocessor.encode(asked)
        self._limit = self._measure_limit()

    def rows(self, server: Server) -> Iterator[Row]:
        """All that is measured of one server; the limit, each time it was measured, in rows of its own."""
        for protocol, wire in server.contender.protocols.items():
            server.ask(wire, 8, self.expected, seconds=2 * self._clock.warm)
            rows = [self._row(server, protocol, wire, concurrency) for concurrency in self._concurrencies]
            before, self._limit = self._limit, self._measure_limit()
            limit = between(before, self._limit)
            yield from (held_against(row, limit) for row in rows)
            yield from _rows_of(limit)

    def _row(self, server: Server, protocol: str, wire: str, concurrency: int) -> Row:
        before, broker = server.cpu_seconds(), server.broker_cpu_seconds()
        outcome = server.ask(
            wire, concurrency, self.expected, seconds=self._clock.seconds, warm_seconds=self._clock.warm
        )
        cpu, broker_after = server.cpu_seconds() - before, server.broker_cpu_seconds()
        for failure in outcome.failures:
            _say(f"{server.contender.name}: {failure}")
        sent, answered = max(outcome.sent, 1), max(outcome.answered, 1)
        return Row(
            server=server.contender.server,
            protocol=protocol,
            logging=server.contender.logging,
            concurrency=concurrency,
            texts_per_s=outcome.answered / outcome.seconds,
            ratio=0.0,
            p50_ms=outcome.p50_ms,
            p99_ms=outcome.p99_ms,
            cpu_ms=cpu / sent * 1000,
            client_cpu_ms=outcome.own_cpu_seconds / answered * 1000,
            broker_cpu_ms=(broker_after - broker) / sent * 1000 if broker is not None and broker_after else None,
            answered=outcome.answered,
            failed=outcome.failed,
            wrong=outcome.wrong,
        )

    def _measure_limit(self) -> Limit:
        return self._raw.limit(self._encodings, self.expected.texts, self._clock.limit)


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers end with the benchmark, however it ends
    started = time.monotonic()
    load = os.getloadavg()[0]
    if load > QUIET_LOAD:
        _say(f"this machine is busy (load {load:.1f}): trust the ratios more than the figures, and neither much")
    chosen = [one for one in _contenders(options) if not options.only or one.server in options.only]
    bench = Bench(Clock(options.seconds, min(options.seconds / 2, 1.0), min(options.seconds, 2.0)), options.concurrency)
    rows: list[Row] = []
    neighbours: list[str] = []
    for number in range(options.rounds):
        turn = number % max(len(chosen), 1)
        for contender in [*chosen[turn:], *chosen[:turn]]:
            _say(f"round {number + 1} of {options.rounds}: {contender.name}")
            with running(contender, bench.expected.texts[0]) as server:
                rows += bench.rows(server)
                if number == 0 and not options.only and contender.logging in ("", "local"):
                    neighbours += compared(server, next(iter(contender.protocols)), bench.expected)
    table = sorted(summary(rows), key=lambda row: row.protocol != "in process")
    print("\n".join([*show(table), "", *shares(table)]))
    if neighbours:
        print("\n".join(["", *HEAD, *neighbours]))
    print(f"\n{_generator(bench.expected)}")
    _say(f"measured in {time.monotonic() - started:.0f} seconds")
    if options.json:
        options.json.write_text("".join(json.dumps(asdict(row)) + "\n" for row in table))
    if any(row.failed or row.wrong for row in table if row.server == "regraft"):
        sys.exit("regraft failed or answered wrongly")


def _contenders(options: argparse.Namespace) -> list[Contender]:
    """The other protocols are measured with the logging that is the default, unless they are asked for."""
    quick = [name for name in REGRAFT_PROTOCOLS if name != "oip-http-binary"]
    every = quick if options.quick else list(REGRAFT_PROTOCOLS)
    return [
        *(regraft(one, options.protocol or (every if one == "local" else ["http"])) for one in options.logging),
        *OTHERS,
    ]


def _rows_of(limit: Limit) -> tuple[Row, Row]:
    alone, most = limit.alone_per_s, limit.texts_per_s
    p50, p99 = limit.alone_p50_ms, limit.alone_p99_ms
    return (
        Row("ONNX Runtime, sorted by 8", "in process", "", SESSIONS, most, 1.0, cpu_ms=limit.cpu_ms, cpu_ratio=1.0),
        Row("ONNX Runtime, one by one", "in process", "", 1, alone, alone / most, p50, p99),
    )


def _generator(expected: Expected) -> str:
    with running(ECHO, expected.texts[0]) as server:
        outcome = server.ask("plain", 64, expected, seconds=2.0)
    return (
        f"The load generator reached {outcome.answered / outcome.seconds:,.0f} requests a second against a server that"
        f" does nothing, at {outcome.own_cpu_seconds / outcome.answered * 1e6:.0f} microseconds of processor time each."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/serving/run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round, under five minutes")
    parser.add_argument("--only", type=_names, default=(), help="these servers, one round, such as regraft,fastapi")
    parser.add_argument("--protocol", type=_names, default=(), help=f"of Regraft: {','.join(REGRAFT_PROTOCOLS)}")
    parser.add_argument("--logging", type=_names, default=(), help="of Regraft: off,local,broker,relaxed")
    parser.add_argument("--concurrency", type=_numbers, default=(1, 8, 32, 64), help="such as 1,64")
    parser.add_argument("--rounds", type=int, help="default 5; 1 with --quick or --only")
    parser.add_argument("--seconds", type=float, help="of each measurement; default 8, with --quick 1.5")
    parser.add_argument("--json", type=Path, help="write one JSON object a row here")
    options = parser.parse_args()
    options.logging = options.logging or _loggings()
    options.rounds = options.rounds or (1 if options.quick or options.only else 5)
    options.seconds = options.seconds or (1.5 if options.quick else 8.0)
    return options


def _loggings() -> tuple[str, ...]:
    """`broker` where a Kafka can be had."""
    fetched = subprocess.run([ROOT / "scripts" / "kafka", "--fetch"], check=False, stdout=sys.stderr)
    return ("local", "off", "broker") if fetched.returncode == 0 else ("local", "off")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
