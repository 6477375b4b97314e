"""Whether CUDA can be had here: found out once, by asking for it."""

import tempfile
from functools import cache
from pathlib import Path

from regraft.errors import VersionRefused
from service.sessions import Session
from tests.fakes import tiny_version


@cache
def missing() -> str:
    """Why not; empty where there is a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        tiny_version(folder, "v1")
        try:
            Session(Path(folder) / "v1" / "model.onnx", "cuda")
        except VersionRefused as error:
            return error.message
    return ""
