"""Which scope each way in asks for, where there are keys. One table a transport: what is not in it asks for admin, so
that nothing new stands open by mistake."""

from collections.abc import Mapping, Sequence

from regraft.keys import Scope
from service import proto

Scopes = Sequence[Scope]
_OPEN: Scopes = ()
_PREDICT: Scopes = (Scope.PREDICT,)
_FEEDBACK: Scopes = (Scope.FEEDBACK,)
_ADMIN: Scopes = (Scope.ADMIN,)

_PATHS: Mapping[str, Scopes] = {
    "/predict": _PREDICT,
    "/predict/batch": _PREDICT,
    "/feedback": _FEEDBACK,
    "/release": _PREDICT,
    "/metrics": _OPEN,  # read from inside the cluster, by what has no key
    "/v2": _PREDICT,
    "/v2/health/live": _OPEN,
    "/v2/health/ready": _OPEN,
    "/v2/models/{name}": _PREDICT,
    "/v2/models/{name}/ready": _OPEN,
    "/v2/models/{name}/infer": _PREDICT,
    "/v2/models/{name}/versions/{version}": _PREDICT,
    "/v2/models/{name}/versions/{version}/ready": _OPEN,
    "/v2/models/{name}/versions/{version}/infer": _PREDICT,
}

_METHODS: Mapping[str, Scopes] = {
    f"{proto.INFERENCE}/ServerLive": _OPEN,
    f"{proto.INFERENCE}/ServerReady": _OPEN,
    f"{proto.INFERENCE}/ModelReady": _OPEN,
    f"{proto.INFERENCE}/ServerMetadata": _PREDICT,
    f"{proto.INFERENCE}/ModelMetadata": _PREDICT,
    f"{proto.INFERENCE}/ModelInfer": _PREDICT,
    f"{proto.FEEDBACK}/Give": _FEEDBACK,
}


def of_path(path: str) -> Scopes:
    """`path` as the route has it, with its parameters in braces."""
    return _PATHS.get(path, _ADMIN)


def of_method(method: str) -> Scopes:
    """`method` as gRPC has it: service/method."""
    return _METHODS.get(method, _ADMIN)
