"""What is wrong, or only odd, with the labelled data; said before training starts, and in the report.

table -> findings -> printed, and refused where training on it would be a mistake
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from regraft.errors import DataError
from regraft.task import Task
from training.data import BadRow, Parts, Row, Table, same_text

FEW = 500
IMBALANCE = 10.0
SHOWN = 20


@dataclass(frozen=True)
class Conflict:
    """One text that was given several labels."""

    text: str
    labels: dict[str, list[str]]  # label -> where

    def __str__(self) -> str:
        said = "; ".join(f"{label} at {', '.join(places)}" for label, places in self.labels.items())
        return f"{self.text[:60]!r} is {said}"


@dataclass(frozen=True)
class Findings:
    rows: int
    bad: list[BadRow]
    duplicates: int
    conflicts: list[Conflict]
    counts: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """All of it in words, the long lists cut."""
        lines = [f"{self.rows} rows: " + ", ".join(f"{n} {label}" for label, n in self.counts.items())]
        lines += _cut(f"{len(self.bad)} bad rows left out", [str(row) for row in self.bad])
        if self.duplicates:
            lines.append(f"{self.duplicates} rows repeat a text; each text stands in one part only")
        lines += _cut(f"{len(self.conflicts)} texts have more than one label", [str(one) for one in self.conflicts])
        return lines + self.notes


def inspect(task: Task, table: Table) -> Findings:
    by_text: dict[str, list[Row]] = defaultdict(list)
    for row in table.rows:
        by_text[same_text(row.text)].append(row)
    found = Counter(row.label for row in table.rows)
    counts = {label: found[label] for label in task.labels}
    return Findings(
        rows=len(table.rows),
        bad=table.bad,
        duplicates=len(table.rows) - len(by_text),
        conflicts=[one for rows in by_text.values() if (one := _conflict(rows))],
        counts=counts,
        notes=_notes(counts),
    )


def refuse(task: Task, findings: Findings) -> None:
    """Raises DataError where training would be a mistake: too many bad rows, or a label with next to no rows."""
    total = findings.rows + len(findings.bad)
    allowed = task.data.maximum_bad_rows
    if len(findings.bad) > allowed * total:
        shown = "\n".join(f"  {row}" for row in findings.bad[:SHOWN])
        raise DataError(
            f"{len(findings.bad)} of {total} rows are bad, more than data.maximum_bad_rows = {allowed:.1%} allows:\n"
            + shown
        )
    if rare := [label for label, n in findings.counts.items() if n < 2]:
        raise DataError(f"fewer than 2 rows of label {', '.join(map(repr, rare))}: nothing can be learned of it")


def refuse_leaks(parts: Parts) -> None:
    """Raises DataError if a text stands in two parts; the split never does that, what was added later might."""
    seen: dict[str, str] = {}
    for name, part in zip(Parts._fields, parts, strict=True):
        for row in part:
            if seen.setdefault(same_text(row.text), name) != name:
                raise DataError(f"{row.place}: the text is in {seen[same_text(row.text)]} and in {name} too")


def _conflict(rows: Sequence[Row]) -> Conflict | None:
    if len({row.label for row in rows}) == 1:
        return None
    labels: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        labels[row.label].append(row.place)
    return Conflict(rows[0].text, dict(labels))


def _notes(counts: dict[str, int]) -> list[str]:
    notes = []
    total, present = sum(counts.values()), [n for n in counts.values() if n]
    if total < FEW:
        notes.append(f"only {total} labelled rows, {FEW} or more are expected: label more, or join rare labels")
    if present and max(present) >= IMBALANCE * min(present):
        rare, common = min(counts, key=lambda k: counts[k]), max(counts, key=lambda k: counts[k])
        notes.append(
            f"imbalance: {common!r} is {counts[common] / max(counts[rare], 1):.0f} times as frequent as {rare!r};"
            " look at macro F1 and at each label's recall, not at accuracy"
        )
    return notes


def _cut(title: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [f"{title}:", *(f"  {line}" for line in lines[:SHOWN]), *more]
