"""The messages of the gRPC interface, in a descriptor pool of their own.

Python's default pool holds each name once, and every client of the Open Inference Protocol brings the same names:
one of them could not even be imported beside generated code of ours. Here nothing is generated but the descriptors.
"""

from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from service.proto.descriptors import SERIALIZED

POOL = DescriptorPool()
for _file in FileDescriptorSet.FromString(SERIALIZED).file:
    POOL.Add(_file)

INFERENCE = "inference.GRPCInferenceService"
FEEDBACK = "regraft.v1.Feedback"


def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return GetMessageClass(POOL.FindMessageTypeByName(name))
