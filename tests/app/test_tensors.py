"""Bounds of answers, without a service."""

from typing import Any

import pytest

from app.inference.schemas import InferRequest
from app.inference.tensors import AnswerTooLarge, demand_size


def test_an_answer_has_a_bound() -> None:
    tensor = {"name": "input", "shape": [4096, 1, 8, 8], "datatype": "UINT8"}
    names = ("logits", "probabilities", "class")

    def demand(classes: int, outputs: list[dict[str, Any]], **parameters: Any) -> None:
        request = InferRequest.model_validate({"inputs": [tensor], "outputs": outputs, "parameters": parameters})
        demand_size(request, [output["name"] for output in outputs] or names, 4096, classes)

    demand(50, [])
    with pytest.raises(AnswerTooLarge, match=r"8,196,096 numbers as JSON; the limit is 500,000\."):
        demand(1000, [])
    demand(1000, [], binary_data_output=True)
    demand(1000, [{"name": "class"}, {"name": "logits", "parameters": {"classification": 5}}])
    with pytest.raises(AnswerTooLarge, match="the limit is 16,777,216"):
        demand(1000, [{"name": "logits"}] * 16, binary_data_output=True)
