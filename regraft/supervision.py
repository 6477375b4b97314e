"""Several processes run as one, by supervisor: what dies is restarted, and all stop together."""

import configparser
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from regraft.settings import Settings

STOP_SECONDS = 30


def run(settings: Settings, commands: Sequence[str]) -> NoReturn:
    """Become supervisor, running `regraft <command>` for each of `commands`: signals reach it, its exit is ours."""
    folder = settings.home.resolve() / "run"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "supervisord.conf"
    with config.open("w") as stream:
        _configuration(folder, commands).write(stream)
    environment = os.environ | settings.as_environment()
    supervisor = ["-m", "supervisor.supervisord", "--nodaemon", "--silent", "-c", str(config)]
    os.execve(sys.executable, [sys.executable, *supervisor], environment)  # noqa: S606


def _configuration(folder: Path, commands: Sequence[str]) -> configparser.RawConfigParser:
    config = configparser.RawConfigParser()
    config["supervisord"] = {
        "logfile": str(folder / "supervisord.log"),
        "pidfile": str(folder / "supervisord.pid"),
        "childlogdir": str(folder),
        "user": "root" if os.geteuid() == 0 else "",
    }
    if not config["supervisord"]["user"]:
        del config["supervisord"]["user"]
    for command in commands:
        config[f"program:{command}"] = {
            "command": f"{sys.executable} -m regraft {command}",
            "startsecs": "0",
            "autorestart": "true",
            "startretries": "1000000",
            "stopasgroup": "true",
            "killasgroup": "true",
            "stopwaitsecs": str(STOP_SECONDS),
            "redirect_stderr": "true",
            "stdout_logfile": str(folder / f"{command}.log"),
        }
    return config
