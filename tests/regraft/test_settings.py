"""Settings come from REGRAFT_* variables and travel to child processes unchanged."""

from pathlib import Path

import pytest

from regraft.errors import ConfigError
from regraft.eventlog.address import KafkaAddress
from regraft.settings import Settings


def test_everything_has_a_default_under_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path))
    settings = Settings.read()
    assert settings.log == f"sqlite:///{tmp_path}/log.sqlite"
    assert settings.versions == f"{tmp_path}/versions"
    assert settings.history == f"{tmp_path}/history"
    assert settings.runs == tmp_path / "runs"


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGRAFT_PORT", "4000")
    assert Settings.read(port=5000, home=tmp_path).port == 5000
    assert Settings.read(port=None).port == 4000


def test_a_child_process_reads_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings.read(home=tmp_path, task=tmp_path / "task.yaml", port=5000, versions_url="memory://x")
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.read() == settings


def test_a_log_on_kafka_gets_its_place_on_this_machine(tmp_path: Path) -> None:
    settings = Settings.read(home=tmp_path, log_url="kafka://broker:9092/regraft.reviews")
    assert KafkaAddress.parse(settings.log).local == tmp_path / "outbox.sqlite"
    assert KafkaAddress.parse(settings.log).durability == "local"


def test_what_the_log_url_says_itself_is_left_alone(tmp_path: Path) -> None:
    url = f"kafka://broker:9092/regraft.reviews?local={tmp_path}/mine&partitions=12"
    assert Settings.read(log_url=url).log == url
    address = KafkaAddress.parse(Settings.read(log_url=url, durability="broker").log)
    assert (address.local, address.partitions, address.durability) == (tmp_path / "mine", 12, "broker")


def test_a_durability_that_the_log_cannot_give_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="REGRAFT_DURABILITY"):
        _ = Settings.read(home=tmp_path, durability="broker").log


@pytest.mark.parametrize(("name", "value"), [("PORT", "many"), ("PORT", "0"), ("PROVIDER", "tpu"), ("WORKERS", "0")])
def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"REGRAFT_{name}", value)
    with pytest.raises(ConfigError, match=f"REGRAFT_{name}"):
        Settings.read()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.read().port = 1  # type: ignore[misc]
