"""`regraft serve`."""

import json
import os
import socket
import sys

import click

from regraft import keys_file
from regraft.cli import with_settings
from regraft.errors import ConfigError
from regraft.settings import Settings
from service import NAME
from service.trace import exporters

KEEP_ALIVE_SECONDS = 75  # longer than most clients keep an idle connection, so that they are the ones to close it
DRAIN_SECONDS = 30  # at a stop, before requests that still run are cut off


@click.command()
@with_settings
def serve(settings: Settings) -> None:
    """Answer predictions and take feedback over HTTP and gRPC until Ctrl-C."""
    # A mistake is a sentence here, and not a worker that dies again and again.
    keys_file.guard(settings.keys_file)
    exporters(os.environ)
    if settings.grpc_port:
        _check_free(settings.host, settings.grpc_port)
    command = [sys.executable, "-m", "bentoml", "serve", "service.app:Service"]
    command += ["--host", settings.host, "--port", str(settings.port)]
    command += ["--timeout-keep-alive", str(KEEP_ALIVE_SECONDS), "--timeout-graceful-shutdown", str(DRAIN_SECONDS)]
    os.execvpe(command[0], command, os.environ | environment(settings))  # noqa: S606


def _check_free(host: str, port: int) -> None:
    """The workers share this port, and so would another server, which would get some of their calls unnoticed."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise ConfigError(f"REGRAFT_GRPC_PORT: {port} on {host}: {error.strerror}") from error


def environment(settings: Settings) -> dict[str, str]:
    """What the server's processes need. Two servers on one BENTOML_HOME would wipe each other's metrics."""
    bentoml_home = settings.home.resolve() / "bentoml"
    bentoml_home.mkdir(parents=True, exist_ok=True)
    return settings.as_environment() | {
        "BENTOML_HOME": str(bentoml_home),
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_CONFIG_OVERRIDES": json.dumps({"services": {NAME: {"workers": settings.workers}}}),
    }
