"""`regraft monitor`."""

import logging
import signal

import click

from regraft.cli import with_settings
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
