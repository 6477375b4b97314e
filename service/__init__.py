"""Answers: routes each request to an arm, batches it through ONNX Runtime, logs the prediction and takes feedback."""

NAME = "regraft"  # of the service, as BentoML knows it
