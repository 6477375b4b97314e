"""gRPC's unary calls on one HTTP/2 connection, as far as a load generator needs them: a call at a time, small messages.

A call costs it some 40 microseconds of processor time, and grpc.aio 120 to 330, all taken from the server.
Frames and settings: RFC 9113. Headers: RFC 7541, sent as gRPC's own clients do: in full once, then by their index.
"""

import struct

from benchmarks.serving.wire import Reply

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7
WINDOW_UPDATE = 0x8
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
LARGEST_WINDOW = 2**31 - 1
FIRST_WINDOW = 65_535
LARGEST_FRAME = 16_384  # that a server takes before it says otherwise
MESSAGE = struct.Struct(">BI")  # not compressed, length
FRAME = struct.Struct(">HBBBI")  # length in 2 + 1 bytes, kind, flags, stream

_NO_TABLE, _NO_PUSH, _WINDOW = (0x1, 0), (0x2, 0), (0x4, LARGEST_WINDOW)
OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return FRAME.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def question(message: bytes) -> bytes:
    """A message as gRPC frames it within a stream. Raises ValueError for one that does not go into one HTTP/2 frame."""
    if len(message) > LARGEST_FRAME - MESSAGE.size:
        raise ValueError(f"a message of {len(message)} bytes does not go into one frame")
    return MESSAGE.pack(0, len(message)) + message


class CallTalk:
    """One Talk of wire.py, of calls to `path`, such as /package.Service/Method."""

    def __init__(self, path: str) -> None:
        self._path = path.encode()
        self._stream = -1
        self._open = False
        self._buffer = bytearray()
        self._owed = bytearray()
        self._message = bytearray()
        self._trailers = b""

    def opening(self) -> bytes:
        settings = b"".join(struct.pack(">HI", *one) for one in (_NO_TABLE, _NO_PUSH, _WINDOW))
        window = struct.pack(">I", LARGEST_WINDOW - FIRST_WINDOW)
        return OPENING + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, window)

    def ask(self, question: bytes) -> bytes:
        self._stream, self._open = self._stream + 2, True
        return frame(HEADERS, END_HEADERS, self._stream, self._headers()) + frame(
            DATA, END_STREAM, self._stream, question
        )

    def owed(self) -> bytes:
        owed, self._owed = bytes(self._owed), bytearray()
        return owed

    def take(self, data: bytes) -> Reply | None:
        self._buffer += data
        reply = None
        while len(self._buffer) >= FRAME.size:
            high, low, kind, flags, stream = FRAME.unpack_from(self._buffer)
            stop = FRAME.size + (high << 8 | low)
            if len(self._buffer) < stop:
                break
            payload = bytes(self._buffer[FRAME.size : stop])
            del self._buffer[:stop]
            reply = self._frame(kind, flags, stream, payload) or reply
        return reply

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> Reply | None:
        if kind in (SETTINGS, PING) and not flags & ACK:
            self._owed += frame(kind, ACK, 0, payload if kind == PING else b"")
        elif kind == GOAWAY or (kind == RESET and self._open and stream == self._stream):
            raise ConnectionError(f"the server ended the {'connection' if kind == GOAWAY else 'call'}: {payload!r}")
        elif kind == DATA:
            self._message += payload
        elif kind == HEADERS:
            self._trailers = payload
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            return self._reply()
        return None

    def _reply(self) -> Reply:
        """A call that failed has trailers and no message. A reset after them (RFC 9113, 8.1) means nothing any more."""
        self._open = False
        message, self._message = bytes(self._message), bytearray()
        if not message:
            return Reply(False, self._trailers)
        return Reply(True, message[MESSAGE.size :])

    def _headers(self) -> bytes:
        """The first time they enter the connection's table, whose newest entry has index 62."""
        if self._stream > 1:
            return bytes([0x83, 0x86, 0xC1, 0xC0, 0xBF, 0xBE])
        named = ((b"\x44", self._path), (b"\x41", b"127.0.0.1"), (b"\x5f", b"application/grpc"))
        entered = b"".join(name + bytes([len(value)]) + value for name, value in named)
        return b"\x83\x86" + entered + b"\x40\x02te\x08trailers"
