"""How ONNX Runtime runs a graph, on a processor or on a GPU: its options, and the provider that was asked for or none.

options(provider) -> providers, session options -> Session(file, provider).run(names, arrays) -> arrays
"""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import onnxruntime
from numpy.typing import NDArray

from regraft.errors import VersionRefused

Provider = Literal["cpu", "cuda"]
Arrays = Mapping[str, NDArray[Any]]

NAMES: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
OPTIONS: dict[Provider, dict[str, str]] = {
    "cpu": {},
    "cuda": {
        "device_id": "0",  # the first that CUDA_VISIBLE_DEVICES leaves
        "arena_extend_strategy": "kSameAsRequested",  # for a swap two versions lie side by side; doubling is too much
        "cudnn_conv_algo_search": "HEURISTIC",  # a search for each new size of batch would be waited for by a caller
        "do_copy_in_default_stream": "1",  # after what computes, on its stream: a copy beside it could come too early
        "use_tf32": "0",  # fp32 answers as it was measured; who wants less than 24 bits has fp16, measured as well
    },
}


def options(provider: Provider) -> tuple[list[tuple[str, dict[str, str]]], onnxruntime.SessionOptions]:
    """What `InferenceSession` takes. On a GPU too the runs are side by side: each has a CUDA stream of its own."""
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = 1  # parallel are the runs, not the work within one
    session.inter_op_num_threads = 1
    session.log_severity_level = 4  # what goes wrong arrives as an exception
    return [(NAMES[provider], OPTIONS[provider])], session


class Session:
    """A loaded graph. Several threads may run it at once: they share one copy of the weights."""

    def __init__(self, file: Path, provider: Provider) -> None:
        """Raises VersionRefused where the provider is not the one asked for, or what ONNX Runtime raises."""
        name, offered = NAMES[provider], onnxruntime.get_available_providers()
        if name not in offered:
            raise VersionRefused(f"asked for {name}, this ONNX Runtime has {', '.join(offered)}")
        if provider == "cuda":
            onnxruntime.preload_dlls()  # from the packages of the extra [gpu], where no path leads to them
        providers, session = options(provider)
        # With its fallback on, ONNX Runtime goes on without a GPU that it cannot have or that fails later.
        self._session = onnxruntime.InferenceSession(str(file), session, providers, enable_fallback=0)
        got = self._session.get_providers()
        if name not in got:
            raise VersionRefused(f"asked for {name}, got {', '.join(got)}: {_why_not_cuda()}")

    def run(self, names: Sequence[str], inputs: Arrays) -> list[NDArray[Any]]:
        """The outputs of these names, in host memory. Inputs go to their device once, outputs come back once."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name in names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        outputs: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return outputs


def _why_not_cuda() -> str:
    """In the dynamic linker's words, which ONNX Runtime only logs: the missing library is the driver's or CUDA's."""
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return str(error)
    return "its libraries load, ONNX Runtime's log says what else is wrong"
