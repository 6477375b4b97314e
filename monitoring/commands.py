"""`regraft monitor`, and `regraft inputs`, which needs the history."""

import logging
import signal
from datetime import UTC, datetime, timedelta

import click

from regraft.cli import with_settings
from regraft.errors import NotFound
from regraft.inputs import InputStore
from regraft.settings import Settings


@click.command()
@with_settings
def monitor(settings: Settings) -> None:
    """Record events, watch quality and drift, serve the review queue, and ask for retraining."""
    import uvicorn

    from monitoring.app import create_app
    from monitoring.monitor import Monitor

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    app = create_app(Monitor(settings))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.monitor_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
    )
    # uvicorn raises the signal that stopped it once more when all is put away; by then there is nothing left to end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run()


@click.group()
def inputs() -> None:
    """The images that were asked about: remove, forget."""


@inputs.command("remove")
@click.argument("reference")
@with_settings
def remove_input(settings: Settings, reference: str) -> None:
    """Remove one image for good; predictions on it keep their answers, and their REFERENCE leads nowhere."""
    if not InputStore(settings.inputs).remove(reference):
        raise NotFound(f"there is no input {reference!r}")


@inputs.command("forget")
@click.argument("days", type=click.FloatRange(min=0))
@with_settings
def forget_inputs(settings: Settings, days: float) -> None:
    """Remove images that nobody sent for DAYS days, but for those with a reviewed label: they are training data."""
    from regraft.history import History

    with History(settings.history).connect() as connection:
        query = "SELECT DISTINCT input FROM outcomes WHERE reviewed_label IS NOT NULL AND input IS NOT NULL"
        reviewed = {reference for (reference,) in connection.execute(query).fetchall()}
    gone = InputStore(settings.inputs).forget(datetime.now(UTC) - timedelta(days=days), reviewed)
    click.echo(f"{gone} images removed, those of {len(reviewed)} reviewed labels kept")
