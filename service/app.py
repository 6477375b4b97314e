"""The BentoML service: its class holds the parts of one worker process, and FastAPI's routes are mounted on it. A gRPC
server runs beside it, on the same event loop: BentoML's own takes no services of this kind.

BentoML gives the worker processes, /livez, /readyz, /docs.json and the image.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from typing import Any

import bentoml
from _bentoml_impl.server.app import ServiceAppFactory  # type: ignore[import-untyped]
from _bentoml_sdk import Service as BentoService  # type: ignore[import-untyped]
from starlette.middleware import Middleware

from regraft.settings import Settings
from service import NAME, routes
from service.grpc_server import GrpcServer
from service.http import HotRoutes
from service.parts import Parts

PARENT_SECONDS = 1.0
COLLECT_EVERY = 20_000  # objects more; hardly any of a request's are in cycles, and a look at them costs each request
SWITCH_SECONDS = 0.0005  # a session that is done should not stand idle for Python's 5 ms while the event loop is busy

app = routes.build()


async def _follow_parent(parent: int) -> None:
    """BentoML's workers outlive a master that was killed, and keep its port from the next one. Ours stop too."""
    while os.getppid() == parent:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


class _AppFactory(ServiceAppFactory):  # type: ignore[misc]
    """Without BentoML's middlewares: those for tracing, access logs and metrics cost more than a prediction, the labels
    of its metrics grow with every path that anybody asks for, and its time-out keeps a timer for a minute after each
    answer. The request path has its own of all that is needed."""

    @property
    def middlewares(self) -> list[Middleware]:
        return []


class _BentoService(BentoService[Any]):  # type: ignore[misc]
    def to_asgi(self, is_main: bool = True) -> Any:
        self.inject_config()
        whole = _AppFactory(self, is_main=is_main)()
        whole.router.default = app  # a path with a line break in it matches nothing that is mounted
        return HotRoutes(app, whole)


@bentoml.service(
    name=NAME,
    service_class=_BentoService,
    metrics={"enabled": False, "namespace": "bentoml_service"},  # /metrics is ours
)
@bentoml.asgi_app(app)
class Service:
    """Regraft answers predictions and takes feedback on them."""

    def __init__(self) -> None:
        settings = Settings.read()
        self.parts = Parts.assemble(settings)
        self.grpc = GrpcServer(self.parts, host=settings.host, port=settings.grpc_port) if settings.grpc_port else None
        app.state.parts = self.parts

    @bentoml.on_startup
    async def start(self) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        await self.parts.start()
        gc.freeze()  # what there is now stays; no collection need look at it again
        gc.set_threshold(COLLECT_EVERY)
        logging.getLogger("uvicorn.access").propagate = False  # or a line is made for each request, and thrown away
        if self.grpc:
            await self.grpc.start()
        self.watching = asyncio.create_task(_follow_parent(os.getppid()))

    @bentoml.on_shutdown
    async def stop(self) -> None:
        self.watching.cancel()
        if self.grpc:
            await self.grpc.stop()
        await self.parts.close()

    async def __is_ready__(self) -> bool:
        return self.parts.following.ready
