"""Settings that an operator may choose. Beyond them a deposit can ruin a model, so it takes an administrator."""

from typing import Any

from app.access.service import Actor, Role
from app.base.errors import Problem
from lirf_core.config import DepositConfig

# From and to, both included. The paper's own settings, and all that the benchmarks have tried, lie within.
RANGES: dict[str, tuple[float, float]] = {
    "lambda_at": (0, 1),
    "lambda_pr": (0, 20),
    "lambda_kp": (0, 30),
    "lambda_fp": (0, 20),
    "lambda_re": (0, 10),
    "lambda_pt": (0, 30),
    "lambda_ft": (0, 20),
    "temperature": (1, 50),
    "pruning_rate": (0, 0.75),
    "epochs": (1, 100),
    "batch_size": (2, 1024),
    "learning_rate": (1e-4, 0.1),
    "momentum": (0, 0.99),
    "weight_decay": (0, 0.01),
    "max_gradient_norm": (0.1, 100),
}
# Without any of a pair's terms, nothing holds on to what the target or the deposit module must know.
NOT_BOTH_ZERO = ("lambda_kp", "lambda_fp"), ("lambda_pt", "lambda_ft")


class SettingsNeedAdministrator(Problem):
    """A setting is beyond the range that operators may use. Choose a value in it, or ask an administrator."""

    status, slug, title = 403, "settings-need-administrator", "The settings need an administrator"


def demand_settings(actor: Actor, config: DepositConfig) -> None:
    """Raises `SettingsNeedAdministrator` if a setting is beyond `RANGES` and the actor is no administrator."""
    if actor.has(Role.ADMINISTRATOR):
        return
    config = config.with_feature_weight(has_layer_norm=False)
    faults = [
        f"{name} is {getattr(config, name):g}; an operator may set it from {low:g} to {high:g}."
        for name, (low, high) in RANGES.items()
        if getattr(config, name) is not None and not low <= getattr(config, name) <= high
    ]
    faults += [
        f"{first} and {second} are both 0; an operator must leave one of them above 0."
        for first, second in NOT_BOTH_ZERO
        if not getattr(config, first) and not getattr(config, second)
    ]
    if faults:
        raise SettingsNeedAdministrator(f"{' '.join(faults)} Leave it out, or ask an administrator to request this.")


def describe_ranges(schema: dict[str, Any]) -> None:
    """Add the ranges to the JSON schema of the settings."""
    for name, (low, high) in RANGES.items():
        setting = schema["properties"][name]
        limit = f"Only an administrator may go beyond {low:g} to {high:g}."
        setting["description"] = f"{setting.get('description', '')} {limit}".strip()
    for first, second in NOT_BOTH_ZERO:
        for name, other in ((first, second), (second, first)):
            schema["properties"][name]["description"] += f" Only an administrator may set it and {other} to 0."
