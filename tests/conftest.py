from collections.abc import Iterator

import pytest

from tests.brokers import HOW_TO_GET_KAFKA, REQUIRED, Broker, missing


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker for all tests of this process; each takes a topic prefix of its own."""
    if reason := missing():
        if REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.kill()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    for_kafka = [report for report in skipped if "no Kafka: " in str(report.longrepr)]
    if for_kafka:
        terminalreporter.write_line(f"{len(for_kafka)} tests of the log on Kafka were skipped; {HOW_TO_GET_KAFKA}")
