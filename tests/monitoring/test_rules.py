import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

import monitoring.metrics
import service.metrics
from regraft.errors import RequestError
from regraft.eventlog import open_log
from tests.brokers import free_port
from tests.monitoring.queries import (
    DASHBOARDS,
    RULES,
    dashboard_expressions,
    metrics_in_queries,
    metrics_of,
    rules,
)

RULE_TESTS = RULES.with_name("regraft.rules.test.yaml")


@pytest.fixture
def exported(tmp_path: Path) -> set[str]:
    """Every metric of the service, those of a log on Kafka included, and of the monitor."""
    url = f"kafka://127.0.0.1:{free_port()}/regraft.reviews?local={tmp_path}/outbox.sqlite"
    with closing(open_log(url)) as log:
        pages = service.metrics.Metrics(log).render() + monitoring.metrics.Metrics().exposition()
    names = re.findall(r"^# TYPE (\S+) ", pages.decode(), re.MULTILINE)
    return {name for name in names if not name.endswith("_created")}


@pytest.fixture
def promtool() -> str:
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not installed: it comes with Debian's package prometheus")
    return path


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_valid(promtool: str) -> None:
    run(promtool, "check", "rules", RULES)


def test_the_rules_pass_their_unit_tests(promtool: str) -> None:
    run(promtool, "test", "rules", RULE_TESTS)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_stays_quiet() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    cases = [(c["alertname"], bool(c["exp_alerts"])) for test in tests for c in test.get("alert_rule_test", [])]
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert {name for name, fires in cases if fires} == alerts
    assert {name for name, fires in cases if not fires} == alerts


def test_every_alert_says_how_urgent_it_is_and_what_happened() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert rule["annotations"]["summary"]


def test_the_error_ratio_leaves_out_just_what_is_the_callers_fault() -> None:
    (ratio,) = [rule["expr"] for rule in rules() if rule.get("record") == "regraft:error_ratio:rate5m"]
    left_out = re.search(r'code!~"([^"]*)"', ratio)
    assert left_out is not None
    assert set(left_out[1].split("|")) == {error.code for error in family(RequestError)} | {"method_not_allowed"}


def test_rules_and_dashboards_ask_for_nothing_that_is_not_exported(exported: set[str]) -> None:
    assert metrics_in_queries() <= exported


def test_everything_exported_is_watched_somewhere(exported: set[str]) -> None:
    assert metrics_in_queries() >= exported


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.name)
def test_every_expression_of_a_dashboard_is_valid(dashboard: Path, promtool: str, tmp_path: Path) -> None:
    expressions = [e.replace("$__rate_interval", "5m") for e in dashboard_expressions(dashboard)]
    assert expressions
    group = {"name": "dashboard", "rules": [{"record": f"x{i}", "expr": e} for i, e in enumerate(expressions)]}
    wrapped = tmp_path / "rules.yaml"
    wrapped.write_text(yaml.safe_dump({"groups": [group]}))
    run(promtool, "check", "rules", wrapped)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.name)
def test_the_panels_of_a_dashboard_do_not_overlap(dashboard: Path) -> None:
    taken: set[tuple[int, int]] = set()
    panels = json.loads(dashboard.read_text())["panels"]
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize(
    ("expression", "metrics"),
    [
        ("up", {"up"}),
        ("sum by (version, arm) (rate(a_total{b='c_total', d=~\"e}|f\"}[5m]))", {"a_total"}),
        ("histogram_quantile(0.99, sum by (le) (rate(x_seconds_bucket[$__rate_interval])))", {"x_seconds"}),
        ("x_sum / x_count", {"x"}),
        ("a > 2 * (a offset 1h30m) and on (v) group_left (w) b unless c", {"a", "b", "c"}),
        ("sum(a) without (x) + 1e3 - Inf", {"a"}),
        ("job:a_seconds:p99_5m # not_this", {"job:a_seconds:p99_5m"}),
        ("time() - a_timestamp_seconds > bool $limit", {"a_timestamp_seconds"}),
        ("max_over_time(rate(a[5m])[1h:1m]) @ end()", {"a"}),
    ],
)
def test_metrics_are_found_in_an_expression(expression: str, metrics: set[str]) -> None:
    assert metrics_of(expression) == metrics


def test_a_metric_hidden_in_a_selector_is_refused() -> None:
    with pytest.raises(ValueError, match="by its name"):
        metrics_of('{__name__="up"}')


def family(error: type[RequestError]) -> Iterator[type[RequestError]]:
    yield error
    for child in error.__subclasses__():
        yield from family(child)
