"""What the workers leave behind for Prometheus."""

import os
from pathlib import Path

from service.metrics import Metrics, forget_dead_workers


def test_a_dead_workers_gauges_go_and_its_counters_stay(tmp_path: Path) -> None:
    dead = 2**30  # above any process id that Linux gives
    files = [f"gauge_livemin_{dead}.db", f"counter_{dead}.db", f"gauge_livemin_{os.getpid()}.db", "gauge_livemin_1.db"]
    for file in files:
        (tmp_path / file).touch()
    forget_dead_workers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(files[1:])


def test_a_single_process_shows_its_metrics_without_a_shared_folder() -> None:
    metrics = Metrics()
    metrics.errors.labels("not_found").inc(3)
    assert b'regraft_errors_total{code="not_found"} 3.0' in metrics.render()
