"""What Prometheus scrapes from the monitor: one process, one registry of its own, every name in one place."""

import math
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from monitoring.judge import Standing
from monitoring.live import VersionQuality
from regraft.events import DriftMeasured, QueueReason


class Metrics:
    """The names are what monitoring/rules and monitoring/dashboards query."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.live_accuracy = self._gauge("regraft_live_accuracy", "Audited accuracy", "version")
        self.live_accuracy_low = self._gauge("regraft_live_accuracy_low", "Lower 95% limit", "version")
        self.live_accuracy_high = self._gauge("regraft_live_accuracy_high", "Upper 95% limit", "version")
        self.validation_accuracy = self._gauge("regraft_validation_accuracy", "Accuracy when trained", "version")
        self.live_error = self._gauge("regraft_live_error", "Audited mean absolute error, of numbers", "version")
        self.live_error_low = self._gauge("regraft_live_error_low", "Lower 95% limit", "version")
        self.live_error_high = self._gauge("regraft_live_error_high", "Upper 95% limit", "version")
        self.validation_error = self._gauge("regraft_validation_error", "Mean error when trained", "version")
        self.interval_coverage = self._gauge(
            "regraft_interval_coverage", "Share of audited truths within the intervals of numbers", "version"
        )
        self.estimated_accuracy = self._gauge(
            "regraft_estimated_accuracy", "Accuracy that the model's own confidence promises", "version"
        )
        self.flag_rate = self._gauge("regraft_flag_rate", "Share of recent predictions that users flagged", "version")
        self.mean_confidence = self._gauge("regraft_mean_confidence", "Mean confidence, recent predictions", "version")
        self.reviewed_audits = self._gauge("regraft_reviewed_audits", "Reviews behind the live accuracy", "version")
        self.review_queue = self._gauge("regraft_review_queue", "Predictions that wait for a reviewer", "reason")
        self.oldest_unreviewed = self._gauge("regraft_oldest_unreviewed_seconds", "Age of the oldest of them")
        self.new_labels = self._gauge("regraft_new_labels", "Predictions reviewed since the last retraining request")
        self.experiment_wins = self._gauge("regraft_experiment_wins", "Disagreements that the candidate won")
        self.experiment_losses = self._gauge("regraft_experiment_losses", "Disagreements that production won")
        self.drift_p_value = self._gauge("regraft_drift_p_value", "Of the newest drift check", "version")
        self.drift_detected = self._gauge("regraft_drift_detected", "1 when the newest check says drift", "version")
        self.drift_statistic = self._gauge(
            "regraft_drift_statistic", "Distance of a column in the newest check", "version", "column"
        )
        self.drift_checked = self._gauge("regraft_drift_checked_timestamp_seconds", "When drift was last checked")
        self.drift_checked.set(math.nan)  # never, until it was
        self.log_lag = self._gauge("regraft_log_lag_events", "Events that a consumer has not dealt with", "consumer")
        self.recorded = self._counter("regraft_recorded_events", "Events written to the history", "kind")
        self.requests = self._counter("regraft_retraining_requests", "Retraining requests, by reason", "reason")
        self.job_failures = self._counter("regraft_job_failures", "Failed runs of the monitor's jobs", "work")
        self.history_write = Histogram(
            "regraft_history_write_seconds", "Time to write one batch of the history", registry=self.registry
        )
        self._versions: set[str] = set()

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def show(self, standing: Standing, queue: Mapping[QueueReason, int]) -> None:
        """Put a look's findings on the gauges; versions that left the release leave the gauges too."""
        for gone in self._versions - set(standing.loop.release.versions):
            self._forget(gone)
        self._versions = set(standing.loop.release.versions)
        for quality in standing.quality:
            self._show_quality(quality)
        if standing.loop.newest_check:
            self._show_drift(standing.loop.newest_check)
        for reason, count in queue.items():
            self.review_queue.labels(reason).set(count)
        waits = standing.at - standing.oldest_unreviewed if standing.at and standing.oldest_unreviewed else None
        self.oldest_unreviewed.set(waits.total_seconds() if waits else 0)
        self.new_labels.set(standing.new_labels)
        self.experiment_wins.set(standing.disagreements.wins if standing.disagreements else 0)
        self.experiment_losses.set(standing.disagreements.losses if standing.disagreements else 0)

    def _show_quality(self, quality: VersionQuality) -> None:
        version = quality.version
        value, low, high, validation = self._of_figure(quality.figure)
        value.labels(version).set(quality.live.value)
        low.labels(version).set(quality.live.low)
        high.labels(version).set(quality.live.high)
        self.reviewed_audits.labels(version).set(quality.live.reviewed)
        if quality.expected is not None:
            self.estimated_accuracy.labels(version).set(quality.expected.value)
        if quality.held is not None:
            self.interval_coverage.labels(version).set(quality.held.value)
        self.flag_rate.labels(version).set(quality.flag_rate.value)
        self.mean_confidence.labels(version).set(quality.mean_confidence)
        if quality.validation is not None:
            validation.labels(version).set(quality.validation)

    def _of_figure(self, figure: str) -> tuple[Gauge, Gauge, Gauge, Gauge]:
        """What the figure that is watched, its limits and its validation are shown on."""
        if figure == "mae":
            return self.live_error, self.live_error_low, self.live_error_high, self.validation_error
        return self.live_accuracy, self.live_accuracy_low, self.live_accuracy_high, self.validation_accuracy

    def _show_drift(self, check: DriftMeasured) -> None:
        self.drift_p_value.labels(check.version).set(check.p_value)
        self.drift_detected.labels(check.version).set(check.drifted)
        self.drift_checked.set(check.at.timestamp())
        for name, column in check.columns.items():
            self.drift_statistic.labels(check.version, name).set(column.statistic)

    def _forget(self, version: str) -> None:
        for gauge in (
            self.live_accuracy,
            self.live_accuracy_low,
            self.live_accuracy_high,
            self.validation_accuracy,
            self.live_error,
            self.live_error_low,
            self.live_error_high,
            self.validation_error,
            self.interval_coverage,
            self.estimated_accuracy,
            self.flag_rate,
            self.mean_confidence,
            self.reviewed_audits,
            self.drift_p_value,
            self.drift_detected,
            self.drift_statistic,
        ):
            gauge.remove_by_labels({"version": version})

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, labels, registry=self.registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)
