"""The gRPC server of one worker process: inference, feedback, health and reflection on one port.

All workers listen on the same port (SO_REUSEPORT) and the kernel deals connections out among them.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service import proto
from service.following import Following
from service.grpc_calls import Context, service
from service.grpc_inference import Feedback, Inference
from service.parts import Parts

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
SERVICES = (proto.INFERENCE, proto.FEEDBACK, HEALTH, reflection.SERVICE_NAME)
LOOK_SECONDS = 0.5  # how often those who watch are told of a change
LOG_SECONDS = 3.0  # that an answer may wait for the event log after its time limit is kept

_Status = health_pb2.HealthCheckResponse


class GrpcServer:
    def __init__(self, parts: Parts, *, host: str, port: int) -> None:
        self._parts = parts
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._health = Health(parts.following)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Raises RuntimeError where it may not listen."""
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", self._parts.task.serving.max_body_bytes),
                ("grpc.max_send_message_length", -1),
            )
        )
        handlers = (
            service(proto.INFERENCE, Inference(self._parts).handlers, self._parts),
            service(proto.FEEDBACK, Feedback(self._parts).handlers, self._parts),
        )
        self._server.add_generic_rpc_handlers(handlers)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(SERVICES, self._server, pool=_reflected())
        self._server.add_insecure_port(self._address)
        await self._server.start()

    async def stop(self) -> None:
        """New calls are refused at once; those under way get the time that they might take anyway."""
        self._health.stop()
        if self._server is not None:
            await self._server.stop(self._parts.task.serving.timeout_seconds + LOG_SECONDS)


class Health:
    """grpc.health.v1: the server and its services are fit to serve when a version is loaded, until the stop.

    The one that comes with gRPC keeps whoever watches for good, and so every stop for the whole of its grace.
    """

    def __init__(self, following: Following) -> None:
        self._following = following
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Any:  # noqa: N802
        status = self._status(request.service)
        if status == _Status.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return _Status(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, _: Context) -> AsyncIterator[Any]:  # noqa: N802
        told = None
        while told is None or not self._stopping.is_set():
            status = self._status(request.service)
            if status != told:
                told = status
                yield _Status(status=status)
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._stopping.wait()
            except TimeoutError:
                pass
        yield _Status(status=self._status(request.service))

    def _status(self, name: str) -> Any:
        if name not in ("", *SERVICES):
            return _Status.SERVICE_UNKNOWN
        serving = self._following.ready and not self._stopping.is_set()
        return _Status.SERVING if serving else _Status.NOT_SERVING


def _reflected() -> DescriptorPool:
    """The files of all services together, as reflection shows them."""
    pool = DescriptorPool()
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        copy = FileDescriptorProto()
        file.CopyToProto(copy)
        pool.Add(copy)
    for name in (proto.INFERENCE, proto.FEEDBACK):
        copy = FileDescriptorProto()
        proto.POOL.FindFileContainingSymbol(name).CopyToProto(copy)
        pool.Add(copy)
    return pool
