"""Which metrics the alert rules and the dashboards ask for, read out of their PromQL expressions."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parents[2] / "monitoring"
RULES = MONITORING / "rules" / "regraft.rules.yaml"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))

_KEYWORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})
# What may hold names that are no metrics, in the order in which it has to go.
_NOT_METRICS = (
    r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`[^`]*`",  # strings first: they may hold anything
    r"#[^\n]*",
    r"\{[^}]*\}",
    r"\[[^]]*\]",
    r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)",
    r"\$\w+|\$\{\w+\}",  # variables of a dashboard
    r"\b(?:\d+(?:ms|[smhdwy]))+\b",  # durations
    r"\b(?:0x[\da-f]+|\d*\.?\d+(?:e[+-]?\d+)?)\b",
)
_NAME = re.compile(r"[a-z_:][\w:]*(?!\s*\(|[\w:])", re.IGNORECASE)


def metrics_of(expression: str) -> set[str]:
    """The metrics in one PromQL expression, a histogram's series by the name of the histogram.

    The suffixes _bucket, _sum and _count belong to histograms and summaries: no metric of ours ends in one of its own.
    Raises ValueError for a selector by `__name__`, whose metrics cannot be told from the expression.
    """
    if "__name__" in expression:
        raise ValueError(f"a metric has to be called by its name: {expression}")
    for pattern in _NOT_METRICS:
        expression = re.sub(pattern, " ", expression, flags=re.IGNORECASE)
    names = {name for name in _NAME.findall(expression) if name.lower() not in _KEYWORDS}
    return {name if ":" in name else re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_expressions(dashboard: Path) -> Iterator[str]:
    """Every PromQL expression in a dashboard, those of its variables included."""
    yield from _expressions(json.loads(dashboard.read_text()))


def metrics_in_queries() -> set[str]:
    """Every metric that some rule or dashboard asks for. What rules record themselves counts by what it is made of."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    expressions = [rule["expr"] for rule in rules()]
    for dashboard in DASHBOARDS:
        expressions += dashboard_expressions(dashboard)
    return {metric for expression in expressions for metric in metrics_of(expression)} - recorded


def _expressions(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _expressions(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "expr":
                yield value
            elif key == "definition":
                yield re.sub(r"^label_values\(([^,]*),.*\)$", r"\1", value)
            else:
                yield from _expressions(value)
