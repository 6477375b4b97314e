"""mosec as its documentation shows dynamic batching; two workers, one for each processor.

python -m benchmarks.serving.servers.mosec_worker --port PORT
"""

from typing import Any

from mosec import Server, Worker  # type: ignore[import-not-found]

from benchmarks.serving.servers.classifier import Answer, Classifier


class Reviews(Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.classify = Classifier()

    def forward(self, data: list[dict[str, Any]]) -> list[Answer]:
        return self.classify([one["text"] for one in data])


if __name__ == "__main__":
    server = Server()
    server.append_worker(Reviews, num=2, max_batch_size=8, max_wait_time=1)
    server.run()
