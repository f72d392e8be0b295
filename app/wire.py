"""Types of the wire that every domain shares."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("text may not hold a NUL character")  # PostgreSQL stores none
    return text


Text = Annotated[str, AfterValidator(_without_nul)]
Id = Annotated[str, StringConstraints(max_length=64), AfterValidator(_without_nul)]
