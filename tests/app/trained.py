"""A small network that knows the birds of tests/app/factories.py, trained in seconds, once for all tests."""

from dataclasses import replace
from pathlib import Path

import safetensors.torch

from lirf_core.images.preprocessing import Augmentation
from lirf_core.network import flat_state
from lirf_core.pretraining import train_original
from tests.lirf_core import factories
from tests.lirf_core.factories import CPU, PREPROCESSING, images

FILE = "trained.safetensors"
SPEC = replace(factories.SPEC, width=0.25)  # wide enough for pruning to ruin a module
# A deposit that forgets and preserves, with `each=12` images of a class, within the default policy.
CAREFUL = {"epochs": 30, "batch_size": 8, "proxies": 64, "proxy_batch": 16, "lambda_fp": 2.0}


def write(folder: Path) -> None:
    network = train_original(
        SPEC, *images(200, list(range(5)), 1), PREPROCESSING, CPU, epochs=8, augmentation=Augmentation(0, False)
    )
    safetensors.torch.save_file(
        {name: tensor.contiguous() for name, tensor in flat_state(network).items()}, folder / FILE
    )
