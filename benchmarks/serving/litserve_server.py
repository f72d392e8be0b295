"""The same network behind LitServe, with batching.

`python -m benchmarks.serving.litserve_server PORT CLASSES BATCH_TIMEOUT`. As in its documentation, one process serves
HTTP and another runs the network; images are base64 in JSON and logits are a list.
"""

import base64
import sys
from typing import Any

import litserve
import torch
from torch import Tensor

from lirf_core.architectures import ArchitectureSpec, build

IMAGE = 3, 32, 32
MAX_BATCH = 64


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, classes: int, batch_timeout: float) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=batch_timeout)
        self._classes = classes

    def setup(self, device: str) -> None:
        self._network = build(ArchitectureSpec("resnet18-small", classes=self._classes)).to(device).eval()

    def decode_request(self, request: dict[str, str]) -> Tensor:
        return torch.frombuffer(bytearray(base64.b64decode(request["image"])), dtype=torch.float32).view(IMAGE)

    def batch(self, inputs: list[Tensor]) -> Tensor:
        return torch.stack(inputs)

    @torch.inference_mode()
    def predict(self, images: Tensor) -> Any:
        return self._network(images)

    def unbatch(self, output: Tensor) -> list[Tensor]:
        return list(output)

    def encode_response(self, output: Tensor) -> dict[str, list[float]]:
        return {"logits": output.tolist()}


if __name__ == "__main__":
    port, classes, batch_timeout = sys.argv[1:]
    server = litserve.LitServer(Classifier(int(classes), float(batch_timeout)), accelerator="cpu")
    server.run(port=int(port), generate_client_file=False)
