"""What is reckoned with the figures that were measured: rows of a table, and medians over rounds of them."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Limit:
    """What ONNX Runtime does by itself: most texts a second and processor time for each; a text alone."""

    texts_per_s: float
    cpu_ms: float
    alone_p50_ms: float
    alone_p99_ms: float
    alone_per_s: float


@dataclass(frozen=True)
class Row:
    """One line of the table. None: was not measured, or has no meaning there.

    `ratio` is the share of the limit in texts a second, with the load generator on the same processors; `cpu_ratio` the
    limit's processor time a text against the server's: the share that it would reach if it had the processors to
    itself. `over_alone_ms` is how far p50 lies above ONNX Runtime's with the text alone. `cpu_ms` (of all the server's
    processes), `client_cpu_ms` and `broker_cpu_ms` are for each text.
    """

    server: str
    protocol: str
    logging: str
    concurrency: int
    texts_per_s: float
    ratio: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    over_alone_ms: float | None = None
    cpu_ms: float | None = None
    cpu_ratio: float | None = None
    client_cpu_ms: float | None = None
    broker_cpu_ms: float | None = None
    answered: int = 0
    failed: int = 0
    wrong: int = 0


COUNTS = ("answered", "failed", "wrong")
NAMES = ("server", "protocol", "logging", "concurrency")


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed (nearest rank).

    >>> quantile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def between(before: Limit, after: Limit) -> Limit:
    """The limit at the time in between, as far as two measurements tell: their mean."""
    return Limit(*(statistics.mean(getattr(one, field.name) for one in (before, after)) for field in fields(Limit)))


def held_against(row: Row, limit: Limit) -> Row:
    """`row` with its ratios to `limit`, which was measured just before and after."""
    over = row.p50_ms - limit.alone_p50_ms if row.p50_ms is not None and row.concurrency == 1 else None
    cpu_ratio = limit.cpu_ms / row.cpu_ms if row.cpu_ms else None
    return replace(row, ratio=row.texts_per_s / limit.texts_per_s, over_alone_ms=over, cpu_ratio=cpu_ratio)


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row a server, protocol, logging and concurrency: medians of figures, sums of counts."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in NAMES), []).append(row)
    return [_middle(group) for group in groups.values()]


def _middle(group: Sequence[Row]) -> Row:
    found: dict[str, float | None] = {}
    for name in (field.name for field in fields(Row)):
        values = [getattr(row, name) for row in group]
        if name in COUNTS:
            found[name] = sum(values)
        elif name not in NAMES:
            found[name] = None if None in values else statistics.median(values)
    return replace(group[0], **found)  # type: ignore[arg-type]


COLUMNS = {
    "texts/s": ("texts_per_s", ",.0f"),
    "of the limit": ("ratio", ".2f"),
    "p50 ms": ("p50_ms", ".1f"),
    "p99 ms": ("p99_ms", ".1f"),
    "over alone ms": ("over_alone_ms", "+.1f"),
    "CPU ms a text": ("cpu_ms", ".2f"),
    "of the limit's CPU": ("cpu_ratio", ".2f"),
    "client's CPU ms": ("client_cpu_ms", ".3f"),
    "broker's CPU ms": ("broker_cpu_ms", ".2f"),
    "failed": ("failed", "d"),
    "wrong": ("wrong", "d"),
}


def show(table: Sequence[Row]) -> Iterator[str]:
    """In Markdown."""
    yield _line([*NAMES, *COLUMNS])
    yield _line(["---"] * 3 + ["--:"] * (len(COLUMNS) + 1))
    for row in table:
        figures = ((getattr(row, name), form) for name, form in COLUMNS.values())
        shown = ("" if value is None else format(value, form) for value, form in figures)
        yield _line([*(str(getattr(row, name)) for name in NAMES), *shown])


def shares(table: Sequence[Row]) -> Iterator[str]:
    """The same in short: a line a server, protocol and logging, with its share of the limit at each concurrency, in
    brackets of the limit's processor time."""
    rows = [row for row in table if row.protocol != "in process"]
    columns = sorted({row.concurrency for row in rows})
    cells: dict[tuple[str, ...], dict[int, str]] = {}
    for row in rows:
        of_cpu = "" if row.cpu_ratio is None else f" ({row.cpu_ratio:.2f})"
        cells.setdefault((row.server, row.protocol, row.logging), {})[row.concurrency] = f"{row.ratio:.2f}{of_cpu}"
    yield _line([*NAMES[:3], *(f"at {one}" for one in columns)])
    yield _line(["---"] * 3 + ["--:"] * len(columns))
    for names, found in cells.items():
        yield _line([*names, *(found.get(one, "") for one in columns)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
