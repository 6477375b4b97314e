"""The report."""

from typing import Any, NamedTuple
from pathlib import Path


class Results(NamedTuple):
    task: Any
    manifest: Any
    findings: list[str]
    card: dict[str, Any]
    curve: list[Any]
    confusion: Any
    test: Any
    truth: Any
    probabilities: Any


def write_report(file: Path, results: Results) -> None:
    file.write_text("<html></html>")
