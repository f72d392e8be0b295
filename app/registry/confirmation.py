"""The typed confirmation of what cannot be undone: the model's name, once more."""

from app.base.errors import Problem


class NameNotConfirmed(Problem):
    """`confirm` must repeat the model's name, and `reason` say why, because this cannot be undone."""

    status, slug, title = 422, "name-not-confirmed", "The confirmation does not name the model"


def demand_confirmation(name: str, confirmation: str | None, reason: str | None, consequence: str) -> str:
    """Returns the reason. consequence: a sentence that says what will be destroyed. Raises `NameNotConfirmed`."""
    if confirmation != name or not reason:
        raise NameNotConfirmed(
            f"{consequence} It cannot be undone. Send the name of the model, '{name}', as `confirm`, and a `reason`."
        )
    return reason
