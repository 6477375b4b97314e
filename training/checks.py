"""What is wrong, or only odd, with the labelled data; said before training starts, and in the report.

table, groups, parts -> findings -> printed, and refused where training on it would be a mistake
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from regraft.errors import DataError
from regraft.task import Task
from training.data import Parts, Row, Table, part_counts
from training.distribution import distribution_of
from training.lookalikes import Looks
from training.records import BadRow
from training.split import Groups, Leak, leaks

FEW = 500
LARGE = 0.1  # of all rows in one group: what is learned and measured hangs on it
SHOWN = 20


@dataclass(frozen=True)
class Conflict:
    """One input that was given several labels."""

    input: str
    labels: dict[str, list[str]]  # label -> where

    def __str__(self) -> str:
        said = "; ".join(f"{label} at {', '.join(places)}" for label, places in self.labels.items())
        return f"{self.input} is {said}"


@dataclass(frozen=True)
class Findings:
    """`errors` forbid training, `notes` are for the reader to judge."""

    rows: int
    bad: list[BadRow]
    duplicates: int
    near_duplicates: list[str]
    conflicts: list[Conflict]
    counts: dict[str, Any]
    spread: str  # of the labels, in words
    leaks: list[Leak]
    parts: dict[str, Any]
    suspects: list[str]
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """All but the errors, in words, the long lists cut."""
        lines = [f"{self.rows} rows: {self.spread}"]
        lines += cut(f"bad rows, left out ({len(self.bad)})", [str(row) for row in self.bad])
        if self.duplicates:
            apart = "" if self.leaks else "; each input stands in one part only"
            lines.append(f"rows that repeat an input: {self.duplicates}{apart}")
        lines += cut(f"rows that nearly repeat another ({len(self.near_duplicates)})", self.near_duplicates)
        lines += cut(f"inputs with more than one label ({len(self.conflicts)})", [str(one) for one in self.conflicts])
        lines += cut(f"labels that may be wrong, the likeliest first ({len(self.suspects)})", self.suspects)
        lines.append("split: " + ", ".join(f"{part['rows']} {name}" for name, part in self.parts.items()))
        return lines + self.notes

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"bad": [str(row) for row in self.bad], "leaks": [str(leak) for leak in self.leaks]}


def inspect(task: Task, table: Table, groups: Groups, parts: Parts, looks: Looks | None = None) -> Findings:
    """Wrong labels are looked for outside the test part alone, which nothing looks at before the last evaluation."""
    by_input: dict[str, list[Row]] = defaultdict(list)
    for row in table.rows:
        by_input[row.key].append(row)
    labels, distribution = [row.label for row in table.rows], distribution_of(task.answers)
    leaking, contradict = leaks(groups.links, parts), distribution.contradiction(labels)
    errors = distribution.errors(labels, task.export.tolerance)
    trained = [*parts.train, *parts.validation]
    return Findings(
        rows=len(table.rows),
        bad=table.bad,
        duplicates=len(table.rows) - len(by_input),
        near_duplicates=[str(link) for link in groups.links if "%" in link.why],
        conflicts=[
            _conflict(rows) for rows in by_input.values() if len(rows) > 1 and contradict([row.label for row in rows])
        ],
        counts=distribution.counts(labels),
        spread=distribution.in_words(labels),
        leaks=leaking,
        parts=part_counts(parts, distribution),
        suspects=distribution.suspects(trained, seed=task.data.seed, looks=looks),
        errors=[*_too_many_bad(task, table), *errors, *_empty(parts), *_leaking(leaking)],
        notes=[
            *_few(len(labels), distribution.advice()),
            *distribution.notes(labels, parts),
            *_large_group(groups, len(labels)),
        ],
    )


def refuse(findings: Findings) -> None:
    """Raises DataError where training would be a mistake."""
    if findings.errors:
        raise DataError("\n".join(findings.errors))


def refuse_leaks(groups: Groups, parts: Parts) -> None:
    """Raises DataError if what belongs together stands in two parts: the split never does that, people may."""
    if said := _leaking(leaks(groups.links, parts)):
        raise DataError("\n".join(said))


def sizes(parts: Parts) -> str:
    return ", ".join(f"{len(part)} {name}" for name, part in parts._asdict().items())


def cut(title: str, lines: Sequence[str]) -> list[str]:
    """A list under its title, no more than the reader can take in."""
    if not lines:
        return []
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [f"{title}:", *(f"  {line}" for line in lines[:SHOWN]), *more]


def _conflict(rows: Sequence[Row]) -> Conflict:
    labels: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        labels[row.label].append(row.place)
    return Conflict("one picture" if rows[0].content else repr(rows[0].input[:60]), dict(labels))


def _too_many_bad(task: Task, table: Table) -> list[str]:
    total, allowed = len(table.rows) + len(table.bad), task.data.maximum_bad_rows
    if len(table.bad) <= allowed * total:
        return []
    title = f"{len(table.bad)} of {total} rows are bad, more than data.maximum_bad_rows = {allowed:.1%} allows"
    return cut(title, [str(row) for row in table.bad])


def _empty(parts: Parts) -> list[str]:
    return [f"the {name} part is empty" for name, part in parts._asdict().items() if not part]


def _leaking(found: Sequence[Leak]) -> list[str]:
    title = f"at least {len(found)} pairs of rows stand in two parts and should not: what is measured would be too good"
    return cut(title, [str(leak) for leak in found])


def _few(total: int, advice: str) -> list[str]:
    return [f"only {total} labelled rows, {FEW} or more are expected: {advice}"] if total < FEW else []


def _large_group(groups: Groups, rows: int) -> list[str]:
    largest = max(groups.groups, key=len, default=[])
    if len(largest) < max(LARGE * rows, 3):
        return []
    said = (
        f"{len(largest)} rows, among them {largest[0].place}, belong together and stand in one part: the same group,"
        " input, or nearly the same (data.near_duplicates)"
    )
    return [said]
