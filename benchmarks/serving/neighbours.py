"""Does an answer depend on what else is asked at that moment? The same texts alone and under load, for each server.

Both are held against what ONNX Runtime answers to the text alone, so the first should show no difference at all.
"""

import argparse
from collections.abc import Iterator

from benchmarks.serving.contenders import OTHERS, Server, regraft, running
from benchmarks.serving.material import Expected, Raw, texts

TEXTS = 1_000
CONCURRENCIES = (1, 32)
LONGEST_SECONDS = 300.0
HEAD = (
    f"| {TEXTS:,} texts: server | protocol | concurrency | answered | failed | labels changed | largest difference |",
    "|---|---|--:|--:|--:|--:|--:|",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/serving/neighbours", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="these servers, such as regraft,fastapi")
    chosen = parser.parse_args().only
    expected = Raw().answers(texts(TEXTS))
    print("\n".join(HEAD))
    for contender in (regraft("local", ["http", "oip-http", "oip-grpc"]), *OTHERS):
        if not chosen or contender.server in chosen.split(","):
            with running(contender, expected.texts[0]) as server:
                for protocol in contender.protocols:
                    print("\n".join(compared(server, protocol, expected)), flush=True)


def compared(server: Server, protocol: str, expected: Expected) -> Iterator[str]:
    """Lines of the table, from the first `TEXTS` of `expected`."""
    wire, some = server.contender.protocols[protocol], expected.first(TEXTS)
    for concurrency in CONCURRENCIES:
        found = server.ask(wire, concurrency, some, seconds=LONGEST_SECONDS, limit=TEXTS)
        yield (
            f"| {server.contender.name} | {protocol} | {concurrency} | {found.answered} | {found.failed} |"
            f" {found.labels_changed} | {found.largest_difference:.2g} |"
        )


if __name__ == "__main__":
    main()
