"""The address of a log on Kafka: kafka://host:port[,host:port]/prefix?option=value&...

prefix.prediction_made, prefix.feedback_given ... are the topics of the kinds that come by the thousand; prefix.loop is
the one topic, of one partition, of all kinds that state is folded from. No password stands in the address, so it may be
printed: `password_file` says where it is, and the file is read when a connection is made.
"""

from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from regraft.errors import ConfigError
from regraft.events import KINDS, Event, kind_of

FORM = "kafka://host:port[,host:port]/regraft.<task>"
BOOTSTRAP_MS = 3_000
REQUEST_MS = 5_000


class KafkaAddress(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    servers: tuple[str, ...] = Field(min_length=1)
    prefix: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,199}$")
    local: Path = Field(description="the log on this machine that events go to first")
    durability: Literal["local", "broker"] = Field("local", description="where an event is when append returns")
    partitions: int = Field(6, ge=1, le=1_000, description="of each topic whose kind is not retained, when it is made")
    retention_days: float = Field(7.0, gt=0, description="of these topics, when they are made")
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ConfigError where `url` is not of the form above or has an option that is none."""
        parts = urlsplit(url)
        if parts.scheme != "kafka" or not parts.netloc or not parts.path.strip("/"):
            raise ConfigError(f"a log on Kafka has an address like {FORM}")
        if "@" in parts.netloc:
            raise ConfigError("a password does not belong into the log's address: use username= and password_file=")
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        if wrong := given.keys() - (cls.model_fields.keys() - {"servers", "prefix"}):
            raise ConfigError(f"the log's address knows no option {', '.join(sorted(wrong))}")
        try:
            return cls(servers=tuple(parts.netloc.split(",")), prefix=parts.path.strip("/"), **given)
        except ValidationError as error:
            problems = "; ".join(f"{p['loc'][0]}: {p['msg']}" for p in error.errors())
            raise ConfigError(f"the log's address: {problems}") from error

    @property
    def loop(self) -> str:
        return f"{self.prefix}.loop"

    def topic(self, event: Event | type[Event]) -> str:
        return self.loop if event.retained else f"{self.prefix}.{kind_of(event)}"

    @property
    def topics(self) -> dict[str, dict[str, Any]]:
        """What each topic is made with where it is missing. The number of its replicas is the cluster's default."""
        data = {
            "num_partitions": self.partitions,
            "configs": {"retention.ms": str(round(self.retention_days * 86_400_000)), "cleanup.policy": "delete"},
        }
        loop = {"num_partitions": 1, "configs": {"retention.ms": "-1", "cleanup.policy": "delete"}}
        return {self.topic(kind): loop if kind.retained else data for kind in KINDS.values()}

    def client_options(self) -> dict[str, Any]:
        """What every client of kafka-python is made with. Reads the password file: raises ConfigError without one."""
        options: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "bootstrap_timeout_ms": BOOTSTRAP_MS,
            "request_timeout_ms": REQUEST_MS,
            "reconnect_backoff_max_ms": 2_000,
            "security_protocol": self.security,
            "client_id": "regraft",
        }
        files = {"ssl_cafile": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
        options |= {name: str(path) for name, path in files.items() if path}
        if self.security.startswith("SASL"):
            options |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self._password(),
            }
        return options

    def _password(self) -> str:
        if self.username is None or self.password_file is None:
            raise ConfigError(f"{self.security} needs username= and password_file= in the log's address")
        try:
            return self.password_file.read_text().strip()
        except OSError as error:
            raise ConfigError(f"the password file of the log cannot be read: {error}") from error
