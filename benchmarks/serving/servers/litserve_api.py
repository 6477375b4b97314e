"""LitServe as its documentation shows batching; two workers, one for each processor.

python -m benchmarks.serving.servers.litserve_api PORT
"""

import sys
from typing import Any

import litserve  # type: ignore[import-not-found]

from benchmarks.serving.servers.classifier import Answer, Classifier


class Reviews(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.classify = Classifier()

    def decode_request(self, request: dict[str, Any]) -> str:
        text: str = request["text"]
        return text

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, texts: list[str]) -> list[Answer]:
        return self.classify(texts)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        return output

    def encode_response(self, output: Answer) -> Answer:
        return output


if __name__ == "__main__":
    # The documentation's batch_timeout of 0.05 s would be added to every request that finds no company.
    api = Reviews(max_batch_size=8, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
