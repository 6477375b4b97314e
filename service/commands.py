"""`regraft serve`."""

import json
import os
import sys

import click

from regraft.cli import with_settings
from regraft.settings import Settings
from service import NAME

KEEP_ALIVE_SECONDS = 75  # longer than most clients keep an idle connection, so that they are the ones to close it
DRAIN_SECONDS = 30  # at a stop, before requests that still run are cut off


@click.command()
@with_settings
def serve(settings: Settings) -> None:
    """Answer predictions and take feedback over HTTP until Ctrl-C."""
    command = [sys.executable, "-m", "bentoml", "serve", "service.app:Service"]
    command += ["--host", settings.host, "--port", str(settings.port)]
    command += ["--timeout-keep-alive", str(KEEP_ALIVE_SECONDS), "--timeout-graceful-shutdown", str(DRAIN_SECONDS)]
    os.execvpe(command[0], command, os.environ | environment(settings))  # noqa: S606


def environment(settings: Settings) -> dict[str, str]:
    """What the server's processes need. Two servers on one BENTOML_HOME would wipe each other's metrics."""
    bentoml_home = settings.home.resolve() / "bentoml"
    bentoml_home.mkdir(parents=True, exist_ok=True)
    return settings.as_environment() | {
        "BENTOML_HOME": str(bentoml_home),
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_CONFIG_OVERRIDES": json.dumps({"services": {NAME: {"workers": settings.workers}}}),
    }
