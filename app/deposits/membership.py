"""What the figures of a deposit of single images say: can an attacker still tell the images from unseen ones?"""

from typing import Any

APART = 0.05  # from 0.5, of the area under an attacker's curve


def membership_warnings(metrics: dict[str, Any] | None) -> list[str]:
    """What a reader of the figures must know. metrics: `DepositMetrics` as stored."""
    membership = (metrics or {}).get("membership")
    if membership is None:
        return ["Membership was not measured, so nothing shows whether the images are forgotten."]
    original, target = membership["original"], membership["target"]
    if original["auc"] - 2 * original["error"] <= 0.5:
        unseen = (
            "The network before the deposit answered these images no differently than images that it never saw, as "
            f"far as so many images show ({_area(original)}; 0.5 is a guess). So the figures do not show forgetting."
        )
        return [unseen]
    if abs(target["auc"] - 0.5) - 2 * target["error"] > APART:
        known = (
            f"An attacker still tells these images from images that the model never saw ({_area(target)}; 0.5 is a "
            "guess). Try more `epochs`."
        )
        return [known]
    return []


def _area(attack: dict[str, Any]) -> str:
    return f"area {attack['auc']:.3f} ± {attack['error']:.3f}"
