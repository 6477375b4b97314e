"""Where this installation keeps things and listens: one frozen object, read once at start from REGRAFT_* variables."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from regraft.errors import ConfigError


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="REGRAFT_", frozen=True, extra="ignore")

    task: Path = Field(Path("task.yaml"), description="the task file")
    home: Path = Field(Path(".regraft"), description="folder for whatever has no address of its own below")
    log_url: str = Field(
        "", description="event log: sqlite:///path or kafka://host:port/prefix; empty: HOME/log.sqlite"
    )
    durability: Literal["local", "broker", "relaxed", "off"] = Field(
        "local",
        description="an answer waits for: the disk of its machine, Kafka's replicas, nothing; off: predictions are not"
        " logged at all, and so never watched, reviewed or learned from",
    )
    versions_url: str = Field("", description="version store: a path or any fsspec URL; empty for HOME/versions")
    history_url: str = Field("", description="history: a path or any fsspec URL; empty for HOME/history")
    inputs_url: str = Field(
        "", description="images that were asked about: a path or any fsspec URL; empty for HOME/inputs"
    )
    provider: Literal["cpu", "cuda"] = Field("cpu", description="execution provider that versions must really get")
    host: str = Field("127.0.0.1", description="address that the servers listen on")
    port: int = Field(3000, description="port of the service", ge=1, le=65535)
    grpc_port: int = Field(3002, description="port of the service for gRPC; 0 for none", ge=0, le=65535)
    monitor_port: int = Field(3001, description="port of the monitor", ge=1, le=65535)
    workers: int = Field(1, description="processes of the service that share its port", ge=1, le=64)
    keys_file: str = Field("", description="file of API keys, read again when it changes; empty: everything is open")
    poll_seconds: float = Field(0.5, description="how often followers of the log look for news", gt=0)
    record_seconds: float = Field(5.0, description="how long the recorder gathers events before it writes a file", gt=0)
    judge_seconds: float = Field(5.0, description="how often quality, policy and verdict are looked at again", gt=0)
    retain_days: float = Field(7.0, description="days that recorded events stay in the log", ge=0)

    @classmethod
    def read(cls, **given: object) -> Self:
        """Settings from the environment, overridden by `given` where it is not None. Raises ConfigError."""
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            problems = "; ".join(f"REGRAFT_{str(p['loc'][0]).upper()}: {p['msg']}" for p in error.errors())
            raise ConfigError(problems) from error

    @property
    def log(self) -> str:
        """The log's address with what Kafka needs of the other settings: where events wait, and for what.

        Raises ConfigError for a durability that the log cannot give."""
        if self.log_url.startswith("kafka://"):
            straight = {"durability": "broker"} if self.durability == "broker" else {}
            wanted = {"local": str(self.home.resolve() / "outbox.sqlite")} | straight
            query = urlsplit(self.log_url).query
            missing = urlencode({name: value for name, value in wanted.items() if name not in parse_qs(query)})
            return f"{self.log_url.removesuffix('?')}{'&' if query else '?'}{missing}".removesuffix("&")
        if self.durability == "broker":
            raise ConfigError("REGRAFT_DURABILITY: broker needs a log on Kafka, and REGRAFT_LOG_URL names none")
        return self.log_url or f"sqlite:///{self.home.resolve() / 'log.sqlite'}"

    @property
    def versions(self) -> str:
        return self.versions_url or str(self.home.resolve() / "versions")

    @property
    def history(self) -> str:
        return self.history_url or str(self.home.resolve() / "history")

    @property
    def inputs(self) -> str:
        return self.inputs_url or str(self.home.resolve() / "inputs")

    @property
    def runs(self) -> Path:
        """Folder of training runs that are under way, with their checkpoints."""
        return self.home.resolve() / "runs"

    def as_environment(self) -> dict[str, str]:
        """The same settings for a child process; paths absolute, since it may run elsewhere."""
        paths = {"task": self.task.resolve(), "home": self.home.resolve()}
        if self.keys_file:
            paths["keys_file"] = Path(self.keys_file).resolve()
        values = self.model_dump() | paths
        return {f"REGRAFT_{name.upper()}": str(value) for name, value in values.items()}
