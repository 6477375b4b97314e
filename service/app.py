"""The BentoML service: its class holds the parts of one worker process, and FastAPI's routes are mounted on it.

BentoML gives the worker processes, /livez, /readyz, /docs.json and the image. Its own middlewares for access logs and
tracing are off, since together they cost more than a prediction; so are its metrics, whose labels grow with every path
that anybody asks for. /metrics is ours.
"""

import bentoml

from regraft.settings import Settings
from service import routes
from service.parts import Parts

NAME = "regraft"

app = routes.build()


@bentoml.service(
    name=NAME,
    metrics={"enabled": False, "namespace": "bentoml_service"},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": [".*"]},
)
@bentoml.asgi_app(app)
class Service:
    """Regraft answers predictions and takes feedback on them."""

    def __init__(self) -> None:
        self.parts = Parts.assemble(Settings.read())
        app.state.parts = self.parts
        app.state.metrics = self.parts.metrics

    @bentoml.on_startup
    async def start(self) -> None:
        await self.parts.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        await self.parts.close()

    async def __is_ready__(self) -> bool:
        return self.parts.following.ready
