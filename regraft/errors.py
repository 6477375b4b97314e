"""Every error that Regraft raises on purpose, each with its HTTP status, its code and a sentence that is safe to show.

RegraftError
├── ConfigError               the task file or the settings do not say what is needed
├── DataError                 the training data cannot be used as it is
├── RequestError              the caller's fault
│   ├── MalformedRequest      400  bytes that are not the promised JSON
│   ├── Unauthorized          401
│   ├── Forbidden             403
│   ├── NotFound              404  unknown prediction, version, report ...
│   ├── RequestTimeout        408  the body did not arrive in time
│   ├── Conflict              409  somebody else changed it first
│   ├── PayloadTooLarge       413
│   ├── UnsupportedMediaType  415
│   ├── InvalidInput          422  well-formed, but not an input this task can take
│   └── TooManyRequests       429
└── Unavailable               503  not the caller's fault; try again
    ├── NotReady                   no version is in production, or it is still loading
    ├── VersionRefused             a version that is damaged or does not reproduce its golden examples
    ├── Overloaded                 the queue is full, or too many requests are under way
    ├── LogUnavailable             the event log takes no events
    └── DeadlineExceeded      504
"""

from typing import Any, ClassVar


class RegraftError(Exception):
    """Base of all. `message` is shown to callers as it is; `details` are further JSON-ready facts."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retriable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    @property
    def headers(self) -> dict[str, str]:
        """What HTTP says of it beside the body."""
        return {}

    def as_json(self) -> dict[str, Any]:
        """The one form in which an error leaves the system."""
        body = {"code": self.code, "message": self.message, "retriable": self.retriable}
        return {"error": body | ({"details": self.details} if self.details else {})}


class ConfigError(RegraftError):
    code = "config"


class DataError(RegraftError):
    code = "data"


class RequestError(RegraftError):
    status = 400
    code = "bad_request"


class MalformedRequest(RequestError):
    code = "malformed_request"


class Unauthorized(RequestError):
    status = 401
    code = "unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer realm="regraft"'}


class Forbidden(RequestError):
    status = 403
    code = "forbidden"


class NotFound(RequestError):
    status = 404
    code = "not_found"


class RequestTimeout(RequestError):
    status = 408
    code = "request_timeout"
    retriable = True


class Conflict(RequestError):
    status = 409
    code = "conflict"
    retriable = True


class PayloadTooLarge(RequestError):
    status = 413
    code = "payload_too_large"


class UnsupportedMediaType(RequestError):
    status = 415
    code = "unsupported_media_type"


class InvalidInput(RequestError):
    status = 422
    code = "invalid_input"


class TooManyRequests(RequestError):
    status = 429
    code = "too_many_requests"
    retriable = True

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.details.get("retry_after_seconds", 1))}


class Unavailable(RegraftError):
    status = 503
    code = "unavailable"
    retriable = True


class NotReady(Unavailable):
    code = "not_ready"


class VersionRefused(Unavailable):
    code = "version_refused"
    retriable = False


class Overloaded(Unavailable):
    code = "overloaded"

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": "1"}


class LogUnavailable(Unavailable):
    code = "log_unavailable"


class DeadlineExceeded(Unavailable):
    status = 504
    code = "deadline_exceeded"
