"""What the benchmark reckons: quantiles, ratios to a limit that was measured before and after, medians over rounds."""

import json
from dataclasses import asdict, replace

import pytest

from benchmarks.serving.figures import Limit, Row, between, held_against, quantile, shares, show, summary

LIMIT = Limit(texts_per_s=800.0, cpu_ms=2.0, alone_p50_ms=3.0, alone_p99_ms=9.0, alone_per_s=300.0)
ROW = Row("regraft", "http", "local", 1, texts_per_s=400.0, ratio=0.0, p50_ms=3.5, cpu_ms=2.5, answered=100)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_quantile_is_a_value_that_was_measured(share: float, expected: int) -> None:
    assert quantile(list(range(100, 0, -1)), share) == expected


def test_a_quantile_of_one_value_is_that_value() -> None:
    assert [quantile([7.0], share) for share in (0.0, 0.5, 0.99)] == [7.0] * 3


def test_a_row_is_held_against_the_mean_of_the_limits_around_it() -> None:
    limit = between(LIMIT, replace(LIMIT, texts_per_s=1200.0, cpu_ms=3.0, alone_p50_ms=2.0))
    row = held_against(ROW, limit)
    assert (row.ratio, row.cpu_ratio, row.over_alone_ms) == (0.4, 1.0, 1.0)


def test_only_a_text_alone_is_compared_with_a_text_alone() -> None:
    assert held_against(replace(ROW, concurrency=8), LIMIT).over_alone_ms is None


def test_a_server_that_answers_nothing_has_no_share_of_the_processors() -> None:
    dead = held_against(replace(ROW, texts_per_s=0.0, cpu_ms=0.0), LIMIT)
    assert (dead.ratio, dead.cpu_ratio) == (0.0, None)


def test_a_summary_has_medians_of_figures_and_sums_of_counts() -> None:
    rounds = [replace(ROW, ratio=ratio, failed=1, p99_ms=None) for ratio in (0.5, 0.9, 0.6)]
    (row, other) = summary([*rounds, replace(ROW, logging="off")])
    assert (row.ratio, row.failed, row.answered, row.p99_ms) == (0.6, 3, 300, None)
    assert (other.logging, other.answered) == ("off", 100)


def test_the_table_leaves_empty_what_was_not_measured() -> None:
    *_, line = show([ROW])
    assert line == "| regraft | http | local | 1 | 400 | 0.00 | 3.5 |  |  | 2.50 |  |  |  | 0 | 0 |"


def test_the_short_table_has_a_line_for_each_way_of_asking_a_server() -> None:
    rows = [held_against(replace(ROW, concurrency=concurrency), LIMIT) for concurrency in (8, 1)]
    limit = Row("ONNX Runtime, sorted by 8", "in process", "", 2, 800.0, 1.0)
    head, _, *lines = shares([limit, *rows, replace(rows[0], logging="off", cpu_ratio=None)])
    assert head == "| server | protocol | logging | at 1 | at 8 |"
    assert lines == ["| regraft | http | local | 0.50 (0.80) | 0.50 (0.80) |", "| regraft | http | off |  | 0.50 |"]


def test_a_row_in_json_says_what_others_look_for() -> None:
    written = json.loads(json.dumps(asdict(ROW)))
    assert {"server", "protocol", "logging", "concurrency", "texts_per_s", "ratio", "p50_ms", "p99_ms"} <= set(written)
