"""The command line. Commands of the three parts are found through entry points, so that the ground floor imports none
of them and a base install offers what it can do."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from regraft import __version__, keys_file, releases, supervision
from regraft.answers import FIGURES
from regraft.errors import ConfigError, RegraftError
from regraft.eventlog import open_log
from regraft.keys import Key, Scope, digest, new_secret
from regraft.settings import Settings
from regraft.versions import VersionStore

COMMANDS = "regraft.commands"


class PartsGroup(click.Group):
    """A group whose further commands come from the parts that are installed, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(point.name for point in entry_points(group=COMMANDS))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        points = entry_points(group=COMMANDS, name=cmd_name)
        if not points:
            return None
        (point,) = points
        try:
            command: click.Command = point.load()
        except ModuleNotFoundError as error:
            part = point.module.partition(".")[0]
            return _missing(
                cmd_name, f"'{cmd_name}' needs {error.name}; install it with: pip install 'regraft[{part}]'"
            )
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RegraftError as error:
            raise click.ClickException(error.message) from error


def _missing(name: str, message: str) -> click.Command:
    def fail(**_: object) -> None:
        raise click.ClickException(message)

    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, callback=fail, help=message, context_settings=anything)


@click.group(cls=PartsGroup)
@click.version_option(__version__)
@click.option("--task", type=click.Path(path_type=Path), help="task file  [REGRAFT_TASK; default task.yaml]")
@click.option(
    "--home", type=click.Path(path_type=Path), help="where everything is kept  [REGRAFT_HOME; default .regraft]"
)
@click.pass_context
def main(ctx: click.Context, task: Path | None, home: Path | None) -> None:
    """Fine-tune a pre-trained network, serve it, watch it, learn from its users, and do it again."""
    ctx.obj = (task, home)


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the settings as its first argument; they are read when it runs, not when help is shown."""

    @wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        task, home = click.get_current_context().find_root().obj
        return command(Settings.read(task=task, home=home), *args, **options)

    return wrapped


@main.group()
def versions() -> None:
    """The trained versions: list, show, export."""


@versions.command("list")
@with_settings
def list_versions(settings: Settings) -> None:
    """Every version, oldest first, with the arm it stands on."""
    release = releases.current(open_log(settings.log))
    for manifest in VersionStore(settings.versions).list():
        arm = {release.production: "production", release.candidate: "candidate"}.get(manifest.version, "")
        name = manifest.answers.figures[0]
        click.echo(
            f"{manifest.version}  {manifest.created_at:%Y-%m-%d %H:%M}  test {FIGURES[name]}"
            f" {manifest.test[name].written(name)}  {arm}".rstrip()
        )


@versions.command("show")
@click.argument("version")
@with_settings
def show_version(settings: Settings, version: str) -> None:
    """The manifest of VERSION as JSON."""
    click.echo(VersionStore(settings.versions).manifest(version).model_dump_json(indent=2))


@versions.command("export")
@click.argument("version")
@click.argument("folder", type=click.Path(path_type=Path, exists=False))
@with_settings
def export_version(settings: Settings, version: str, folder: Path) -> None:
    """Copy VERSION, checked against its hashes, to a new FOLDER."""
    shutil.copytree(VersionStore(settings.versions).fetch(version), folder)
    click.echo(f"{version} -> {folder}")


@main.group()
def release() -> None:
    """Which version answers: show, share, promote, rollback."""


_WHO = click.option("--who", default=lambda: os.environ.get("USER") or "operator", help="name on record")
_WHY = click.option("--why", default="by hand", help="reason on record")


@release.command("show")
@click.option("--at", type=click.DateTime(), help="the release of this past moment (UTC)")
@click.option("--history", is_flag=True, help="every release there was")
@with_settings
def show_release(settings: Settings, at: datetime | None, history: bool) -> None:
    """Which version stands on which arm, since when and why, as JSON."""
    past = releases.history(open_log(settings.log))
    if at is not None:
        moment = at.replace(tzinfo=UTC)
        past = [r for r in past if r.since is not None and r.since <= moment]
    for one in past if history else past[-1:] or [releases.Release()]:
        click.echo(json.dumps(vars(one), default=str))


@release.command()
@click.argument("version")
@click.argument("share", type=float)
@_WHO
@_WHY
@with_settings
def share(settings: Settings, version: str, share: float, who: str, why: str) -> None:
    """Give candidate VERSION this SHARE of the traffic."""
    _change(settings, lambda now: releases.start_experiment(now, _existing(settings, version), share), who, why)


@release.command()
@click.argument("version")
@_WHO
@_WHY
@with_settings
def promote(settings: Settings, version: str, who: str, why: str) -> None:
    """Put VERSION into production, alone."""
    _change(settings, lambda now: releases.promote(now, _existing(settings, version)), who, why)


@release.command()
@_WHO
@_WHY
@with_settings
def rollback(settings: Settings, who: str, why: str) -> None:
    """Withdraw the candidate; without one, go back to the production version before this one."""
    _change(settings, releases.roll_back, who, why)


@main.group()
def keys() -> None:
    """The API keys: new, list."""


@keys.command("new")
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, required=True, type=click.Choice([str(one) for one in Scope]), help="repeatable"
)
@click.option("--rate", type=float, help="requests a second, in each worker; without it, as many as it likes")
@with_settings
def new_key(settings: Settings, name: str, scopes: tuple[str, ...], rate: float | None) -> None:
    """Show a new key, this once, and add its hash to REGRAFT_KEYS_FILE; without one, show the entry to add."""
    secret = new_secret()
    key = Key(name, digest(secret), frozenset(map(Scope, scopes)), rate)
    entry = keys_file.entry(key)
    if settings.keys_file:
        keys_file.add(Path(settings.keys_file), key)
        click.echo(
            f"added to {settings.keys_file}, which servers take over within two seconds; the key, shown once:",
            err=True,
        )
    click.echo(secret)
    if not settings.keys_file:
        click.echo(entry, nl=False)


@keys.command("list")
@with_settings
def list_keys(settings: Settings) -> None:
    """Name, scopes and rate of every key in REGRAFT_KEYS_FILE."""
    if not settings.keys_file:
        raise ConfigError("REGRAFT_KEYS_FILE: is not set, everything is open to everybody")
    for key in keys_file.read(Path(settings.keys_file)):
        rate = "" if key.rate is None else f"  {key.rate:g} a second"
        click.echo(f"{key.name}  {' '.join(sorted(key.scopes))}{rate}")


@main.command()
@with_settings
def up(settings: Settings) -> None:
    """Run the service, the monitor and the worker together until Ctrl-C, restarting what dies."""
    supervision.run(settings, ("serve", "monitor", "worker"))


def _existing(settings: Settings, version: str) -> str:
    return VersionStore(settings.versions).manifest(version).version


def _change(settings: Settings, to: Callable[[releases.Release], releases.Release], who: str, why: str) -> None:
    log = open_log(settings.log)
    before = releases.current(log)
    after = releases.change(log, before, to(before), who=who, why=why)
    candidate = f", candidate {after.candidate} with {after.share:.0%}" if after.candidate else ""
    click.echo(f"generation {after.generation}: production {after.production}{candidate}")
