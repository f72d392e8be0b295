"""The deposit configurations of the benchmarks. Each row of a table is one of these, perhaps with fields replaced."""

from dataclasses import replace

from benchmarks.subjects import Recipe
from lirf_core import config
from lirf_core.config import DepositConfig
from lirf_core.hardening import HardeningConfig

OURS = DepositConfig()

# Section 5.1: eq. 9 as written. The paper does not state lambda_at.
PAPER = DepositConfig(
    removal="random",
    lambda_at=0.05,
    lambda_pr=0.0,
    lambda_kp=10.0,
    lambda_fp=0.0,
    lambda_re=10.0,
    lambda_pt=10.0,
    lambda_ft=0.0,
    transfer="deposited",
    joining="eq8",
    proxies=0,
    temperature=10.0,
    pruning_rate=0.5,
    epochs=20,
    batch_size=128,
    learning_rate=0.01,
    weight_decay=5e-4,
)

# Deposits of single images.
SAMPLES = replace(config.SAMPLES, epochs=10)

SPLITS = ("layer2", "layer3")

# Table 2. The first four rows are the paper's, with our number of epochs. The others lead from there to our settings.
PAPER_SHORT = replace(PAPER, epochs=OURS.epochs, lambda_at=0.0, pruning_rate=0.0)
ABLATION: dict[str, DepositConfig] = {
    "L_kr, L_kp [w/o L_at]": replace(PAPER_SHORT, lambda_pt=0.0, lambda_re=0.0),
    "L_kr, L_kp [w/o L_at], L_pt, L_re": PAPER_SHORT,
    "L_kr, L_kp, L_pt, L_re": replace(PAPER_SHORT, lambda_at=PAPER.lambda_at),
    "L_kr, L_kp, L_pt, L_re + Prune": replace(PAPER, epochs=OURS.epochs),
    "ours": OURS,
    "ours, random labels": replace(OURS, removal="random"),
    "ours w/o L_at": replace(OURS, lambda_at=0.0),
    "ours w/o L_pr": replace(OURS, lambda_pr=0.0),
    "ours w/o proxies": replace(OURS, proxies=0, lambda_fp=0.0),
    "ours, joined by eq. 8 alone": replace(OURS, joining="eq8"),
    "ours, transfer of deposited logits (eq. 6) alone": replace(OURS, transfer="deposited", lambda_ft=0.0),
    "ours + Prune": replace(OURS, pruning_rate=0.5),
}

# Hardenings, by what they try. The second is the one that the service began with.
HARDENED = HardeningConfig(epochs=15)
HARDENINGS: dict[str, Recipe] = {
    "ours": Recipe(HARDENED),
    "30 % below, 100 % above, all features": Recipe(
        replace(HARDENED, noise_first=0.3, noise_split=0.3, noise_upper=1.0, lambda_ur=0.0, mixed=1.0)
    ),
    "all features": Recipe(replace(HARDENED, lambda_ur=0.0)),
    "mixed to the end": Recipe(replace(HARDENED, mixed=1.0)),
    "30 % below, 100 % above": Recipe(replace(HARDENED, noise_first=0.3, noise_split=0.3, noise_upper=1.0)),
    "more noise with depth": Recipe(replace(HARDENED, noise_first=0.2, noise_split=0.8, noise_upper=1.0)),
    "everything fresh": Recipe(replace(HARDENED, noise_first=1.0, noise_split=1.0, noise_upper=1.0)),
    "temperature 1": Recipe(replace(HARDENED, temperature=1.0)),
    "temperature 8": Recipe(replace(HARDENED, temperature=8.0)),
    "averaged weights": Recipe(replace(HARDENED, average_decay=0.99)),
    "50 preserved images": Recipe(HARDENED, preserved=50),
}
