import threading
from collections.abc import Iterator

import pytest
import torch

from training.inference import infer
from training.processes import CPU

THREADS = 3


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def test_several_batches_run_at_once_each_in_one_thread_and_without_gradients() -> None:
    together, seen = threading.Barrier(THREADS, timeout=60), list[int]()
    weight = torch.ones(2, 2, requires_grad=True)

    def run(batch: list[int]) -> None:
        together.wait()
        product = weight @ weight
        assert (torch.get_num_threads(), product.requires_grad, product.dtype) == (1, False, torch.bfloat16)
        seen.extend(batch)

    infer(run, [[3, 4], [1], [2]], torch.bfloat16, CPU)
    assert sorted(seen) == [1, 2, 3, 4]
    assert torch.get_num_threads() == THREADS


def test_a_batch_that_fails_is_heard_of_and_those_that_wait_do_not_begin() -> None:
    together, begun = threading.Barrier(THREADS, timeout=60), list[int]()

    def run(batch: list[int]) -> None:
        begun.extend(batch)
        together.wait()
        raise ValueError(f"batch {batch[0]}")

    with pytest.raises(ValueError, match="batch"):
        infer(run, [[number] for number in range(100)], torch.float32, CPU)
    assert sorted(begun) == [0, 1, 2]
    assert torch.get_num_threads() == THREADS


def test_where_torch_has_one_thread_it_is_the_callers() -> None:
    torch.set_num_threads(1)
    ran = list[int]()
    infer(lambda _: ran.append(threading.get_ident()), [[1], [2]], torch.float32, CPU)
    assert ran == [threading.get_ident()] * 2
