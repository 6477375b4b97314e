"""BentoML as its documentation shows it: a service with adaptive batching; two workers, one for each processor.

bentoml serve benchmarks.serving.servers.bentoml_service:Reviews
"""

import bentoml

from benchmarks.serving.servers.classifier import Answer, Classifier


@bentoml.service(workers=2)
class Reviews:
    def __init__(self) -> None:
        self.classify = Classifier()

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=1000)  # type: ignore[untyped-decorator]
    def predict(self, texts: list[str]) -> list[Answer]:
        return self.classify(texts)
