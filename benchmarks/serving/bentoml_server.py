"""The same network behind BentoML, with adaptive batching.

`bentoml serve benchmarks.serving.bentoml_server:Classifier`, in a separate environment, because BentoML's pinned
dependencies conflict with ours. As in its documentation, images are base64 in JSON and logits are lists.
"""

import base64
import os

import bentoml
import torch

from lirf_core.architectures import ArchitectureSpec, build

IMAGE = 3, 32, 32
MAX_BATCH, MAX_LATENCY_MS = 64, 30_000


@bentoml.service(workers=1, traffic={"timeout": 60})
class Classifier:
    def __init__(self) -> None:
        self._network = build(ArchitectureSpec("resnet18-small", classes=int(os.environ["CLASSES"]))).eval()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=MAX_LATENCY_MS)  # type: ignore[untyped-decorator]
    @torch.inference_mode()
    def predict(self, images: list[str]) -> list[list[float]]:
        pixels = [torch.frombuffer(bytearray(base64.b64decode(image)), dtype=torch.float32) for image in images]
        answers: list[list[float]] = self._network(torch.stack(pixels).view(-1, *IMAGE)).tolist()
        return answers
