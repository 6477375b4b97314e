"""BentoML as its documentation shows it: a service with adaptive batching; two workers, one for each processor.

bentoml serve benchmarks.serving.servers.bentoml_service:Reviews
"""

import bentoml

from benchmarks.serving.servers.classifier import Answer, Classifier


# max_latency_ms stays at its default of a minute. The documentation also shows 1,000, with which the batcher refuses
# (status 503) what it reckons would take longer: hundreds of requests at concurrency 64 on a busy machine.
@bentoml.service(workers=2)
class Reviews:
    def __init__(self) -> None:
        self.classify = Classifier()

    @bentoml.api(batchable=True, max_batch_size=8)  # type: ignore[untyped-decorator]
    def predict(self, texts: list[str]) -> list[Answer]:
        return self.classify(texts)
