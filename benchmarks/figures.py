"""The paper's figures as PNG and SVG: t-SNE of features (figure 3), sweeps of split and pruning (figure 4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import torch
from matplotlib import pyplot
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from torch import Tensor

from benchmarks.experiments import RESULTS
from benchmarks.reports import COLUMNS

matplotlib.use("agg")
SWEPT = ("target Pre", "target Dep", "recover Avg", "probe Dep")


def t_sne(name: str, features: Mapping[str, Tensor], labels: Tensor, classes: Sequence[str], deposited: int) -> None:
    """Draw a panel for each network, with crosses for the first `deposited` classes. features: (N, F); labels: (N,)."""
    figure, panels = pyplot.subplots(1, len(features), figsize=(4.2 * len(features), 4.6))
    colours = matplotlib.colormaps["tab10" if len(classes) <= 10 else "hsv"]
    for panel, (title, of_network) in zip(panels, features.items(), strict=True):
        plane = torch.from_numpy(TSNE(random_state=0).fit_transform(of_network.numpy()))
        for index, label in enumerate(classes):
            points = plane[labels == index]
            colour = colours(index if len(classes) <= 10 else index / len(classes))
            marker = "x" if index < deposited else "."
            panel.scatter(*points.T, s=14, linewidths=0.9, marker=marker, color=colour, label=label)
        panel.set_title(title)
        panel.set_xticks([])
        panel.set_yticks([])
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=min(len(classes), 10), frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    _save(figure, name)


def separation(features: Tensor, labels: Tensor, is_deposited: Tensor) -> dict[str, float]:
    """How well the classes are separated: mean silhouette (Rousseeuw, 1987) by angle, percent. features: (N, F)."""
    silhouettes = torch.from_numpy(silhouette_samples(features.numpy(), labels.numpy(), metric="cosine"))
    kinds = {"preserved": ~is_deposited, "deposited": is_deposited}
    return {kind: round(100 * silhouettes[mask].mean().item(), 2) for kind, mask in kinds.items()}


def sweeps(name: str, outcomes: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]]) -> None:
    """Draw a panel for each quantity and each sweep. outcomes: sweep -> value -> runs."""
    figure, panels = pyplot.subplots(
        len(outcomes), len(SWEPT), figsize=(3.4 * len(SWEPT), 2.8 * len(outcomes)), squeeze=False
    )
    for row, (sweep, values) in zip(panels, outcomes.items(), strict=True):
        for panel, quantity in zip(row, SWEPT, strict=True):
            means = [sum(COLUMNS[quantity](one) or 0.0 for one in runs) / len(runs) for runs in values.values()]
            panel.plot(list(values), means, marker="o")
            panel.set_xlabel(sweep)
            panel.set_title(f"{quantity}, %")
            panel.grid(alpha=0.3)
    figure.tight_layout()
    _save(figure, name)


def _save(figure: Any, name: str) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        figure.savefig(RESULTS / f"{name}.{kind}", dpi=150)
    pyplot.close(figure)
