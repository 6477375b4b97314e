"""Batches from which nothing is learned, one beside the other."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

from training.precision import computing


def infer(
    run: Callable[[list[int]], None], batches: Iterable[list[int]], dtype: torch.dtype, device: torch.device
) -> None:
    """Call `run` with each of `batches`, without gradients, matrix products in `dtype`.

    On a CPU as many run at once as torch has threads, each in one thread: so none waits for the others after every
    operation, which is a tenth faster than all threads on one batch, takes the memory of so many batches, and gives the
    same however many there are. Sorted by length, the longest should come first: one at the end is waited for.
    """
    todo, threads = iter(list(batches)), torch.get_num_threads() if device.type == "cpu" else 1

    def work() -> None:
        with torch.no_grad(), computing(dtype, device):
            for batch in todo:
                run(batch)

    if threads == 1:
        work()
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            workers = [pool.submit(work) for _ in range(threads)]
            try:
                for worker in workers:
                    worker.result()
            finally:  # nobody begins another after Ctrl-C, or where one has failed
                deque(todo, maxlen=0)
    finally:
        torch.set_num_threads(threads)  # it is what threads to come begin with, too
