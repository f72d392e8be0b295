"""The networks that `benchmarks.hardening` attacks. Each is made once and kept beside the originals."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import experiments
from benchmarks.data import Data
from benchmarks.experiments import Experiment, OnStep, carry_out, deposit_set, original
from lirf_core.architectures import build
from lirf_core.class_rows import without_rows
from lirf_core.compute import Compute
from lirf_core.hardening import HardeningConfig, HardeningRun, Transfer, harden
from lirf_core.network import SplitNetwork, flat_state, freeze, load_flat_state
from lirf_core.proxies import make_proxies
from lirf_core.training import Progress


@dataclass(frozen=True)
class Recipe:
    """What a hardened network is made of, besides its experiment.

    proxies: in the transfer set. preserved: preserved training images of each class in it, repeated until they are as
    many as the proxies.
    """

    hardening: HardeningConfig
    proxies: int = 3000
    preserved: int = 0


@dataclass(frozen=True)
class Workshop:
    """An experiment with its data and device; makes its networks or loads them."""

    experiment: Experiment
    data: Data
    compute: Compute

    def original(self) -> SplitNetwork:
        """The network that knows every class."""
        return original(self.data, self.experiment, self.compute)

    def reference(self) -> SplitNetwork:
        """A network that never saw the deposited classes, by the original's recipe."""
        return original(self.data, self.experiment, self.compute, self.data.preserved)

    def target(self, on_step: OnStep = lambda *_: None) -> SplitNetwork:
        """The deposit's target network."""

        def make() -> dict[str, Tensor]:
            result = carry_out(self.experiment, self.data, self.original(), self.compute, on_step)
            return flat_state(result.target)

        whole = self._built()
        load_flat_state(whole, self._kept(self._file("target"), make))
        freeze(whole)
        return self.compute.place(whole)

    def hardened(self, recipe: Recipe, on_step: OnStep = lambda *_: None) -> SplitNetwork:
        """A hardened target, without rows of the deposited classes. An interrupted hardening goes on from its file."""
        file = self._file("hardened", recipe)
        checkpoint = file.with_suffix(".checkpoint")

        def keep(progress: Progress) -> None:
            on_step(progress.step, progress.steps)
            if progress.ends_epoch:
                checkpoint.parent.mkdir(parents=True, exist_ok=True)
                checkpoint.write_bytes(progress.checkpoint())

        def make() -> dict[str, Tensor]:
            transfer = Transfer(self._transfer_set(recipe), self.data.preserved, self.data.preprocessing)
            config = replace(recipe.hardening, seed=self.experiment.seed, augmentation=self.data.augmentation)
            started = checkpoint.read_bytes() if checkpoint.exists() else None
            run = HardeningRun(config, self.compute, keep, started)
            return flat_state(harden(self.target(), self._built(), transfer, run))

        network = without_rows(self._built(), self.data.preserved)
        load_flat_state(network, self._kept(file, make))
        checkpoint.unlink(missing_ok=True)
        freeze(network)
        return self.compute.place(network)

    def _transfer_set(self, recipe: Recipe) -> Tensor:
        images = [deposit_set(self.data, self.experiment).pixels]
        if recipe.proxies:
            images.append(self._proxies(recipe.proxies))
        if recipe.preserved:
            preserved = self.data.training.of_classes(self.data.preserved).first_of_each(recipe.preserved).pixels
            images += [preserved] * max(1, recipe.proxies // len(preserved))
        return torch.cat(images)

    def _proxies(self, count: int) -> Tensor:
        def make() -> dict[str, Tensor]:
            network = self.compute.place(self.original())
            freeze(network)
            generator = torch.Generator().manual_seed(self.experiment.seed)
            images, preserved = deposit_set(self.data, self.experiment).pixels, torch.tensor(self.data.preserved)
            proxies = make_proxies(network, images, preserved, count, self.data.preprocessing, self.compute, generator)
            return {"images": proxies.images}

        return self._kept(self._file(f"proxies-{count}"), make)["images"]

    def _built(self) -> SplitNetwork:
        spec, width = self.data.narrow, self.experiment.width
        torch.manual_seed(self.experiment.seed)
        return build(spec if width is None else replace(spec, width=width), self.experiment.split)

    def _file(self, name: str, recipe: Recipe | None = None) -> Path:
        choices = {"experiment": asdict(self.experiment), "recipe": recipe and asdict(recipe)}
        key = hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()[:12]
        return experiments.ORIGINALS.parent / "hardening" / f"{self.data.name}-{name}-{key}.safetensors"

    def _kept(self, file: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if not file.exists():
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, file)
        return load_file(file)
