"""Does an answer depend on what else is asked at that moment? The same texts alone and under load, for each server.

Both are held against what ONNX Runtime answers to the text alone, so the first should show no difference at all.
"""

import argparse
from collections.abc import Iterator

from benchmarks.serving.contenders import Contender, ask, contenders, running
from benchmarks.serving.load import Job
from benchmarks.serving.material import Expected, Raw, texts

TEXTS = 1_000
CONCURRENCIES = (1, 32)
LONGEST_SECONDS = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/serving/neighbours", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--servers", default="", help="only these, such as regraft,fastapi")
    chosen = parser.parse_args().servers
    raw = Raw()
    expected = raw.answers(texts(TEXTS))
    print(f"{TEXTS:,} texts; model: {raw.precision}\n")
    print("| server | protocol | concurrency | answered | failed | labels changed | largest difference |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for contender in contenders():
        if not chosen or contender.server in chosen.split(","):
            for line in _lines(contender, expected):
                print(line, flush=True)


def _lines(contender: Contender, expected: Expected) -> Iterator[str]:
    with running(contender, expected.texts[0]) as server:
        for protocol in contender.protocols:
            for concurrency in CONCURRENCIES:
                job = Job(
                    server.port,
                    protocol,
                    concurrency,
                    expected.texts,
                    expected.labels,
                    expected.probabilities,
                    seconds=LONGEST_SECONDS,
                    limit=TEXTS,
                )
                outcome = ask(job)
                yield (
                    f"| {contender.name} | {protocol} | {concurrency} | {outcome.answered} | {outcome.failed} |"
                    f" {outcome.labels_changed} | {outcome.largest_difference:.2g} |"
                )


if __name__ == "__main__":
    main()
