"""The compiled messages are those of the .proto files, and leave other people's alone."""

import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

import service.proto
from service.proto.descriptors import SERIALIZED

FOLDER = Path(service.proto.__file__).parent


def test_the_descriptors_are_those_of_the_proto_files(tmp_path: Path) -> None:
    """Otherwise scripts/proto is due."""
    target = tmp_path / "set"
    files = sorted(path.name for path in FOLDER.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", f"--descriptor_set_out={target}", *files]
    subprocess.run(command, cwd=FOLDER, check=True)
    assert FileDescriptorSet.FromString(target.read_bytes()) == FileDescriptorSet.FromString(SERIALIZED)


def test_a_client_with_messages_of_the_same_names_can_live_in_one_process_with_ours() -> None:
    code = "import service.proto, tritonclient.grpc, service.grpc_inference"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
