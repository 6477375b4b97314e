"""Which number format the network computes in: bfloat16 where this machine multiplies it faster, else float32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from training.processes import CPU


def choose(asked: Literal["auto", "fp32", "bf16"], device: torch.device = CPU) -> torch.dtype:
    """`auto` takes bfloat16 where the device multiplies it faster than float32."""
    if asked == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return torch.bfloat16 if asked == "bf16" else torch.float32


def computing(dtype: torch.dtype, device: torch.device = CPU) -> AbstractContextManager[object]:
    """Matrix products in `dtype` within; weights stay float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Intel's processors without AMX have an instruction for it too, with which products take twice as long."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = torch.cpu.get_capabilities()
    vectors = flags.get("avx512_bf16") and "Intel" not in str(flags.get("cpu_name"))
    return bool(flags.get("amx_bf16") or flags.get("bf16") or vectors)
