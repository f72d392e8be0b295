"""Names of API keys. A name is a label; still, it must not pass for another key, a user or a part of the service."""

import re
import unicodedata
from typing import Final

EXTERNAL: Final = "oidc"  # begins the ids and names of an identity provider's users; ids of API keys are hexadecimal
LOCAL: Final = "local administrator"  # somebody on the server itself
# The actors of the service, of this version and of others that may come, in their normal form.
RESERVED: Final = frozenset(
    {"worker", "reconciler", "system", "service", "scheduler", "installation", "lirf", "root", "local", LOCAL}
)
MAX_NORMAL_CHARACTERS: Final = 200  # one character of a name may have a normal form of 18
# Letters of these scripts look alike, so a name has letters of one of them only (Unicode TS 39, 5.1, in short).
_ALIKE: Final = frozenset({"LATIN", "CYRILLIC", "GREEK", "COPTIC", "ARMENIAN", "CHEROKEE", "LISU", "DESERET"})
# Characters that show nothing, although Unicode calls them letters, marks or symbols.
_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_ID: Final = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}")


def normal_form(name: str) -> str:
    """Two names with the same normal form look alike: compatible characters, case and spaces make no difference."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def is_plain(text: str) -> bool:
    """Whether all characters are visible, and none changes the direction of the text or breaks the line."""
    has_hidden = any(char != " " and unicodedata.category(char)[0] in "CZ" for char in text)
    return not has_hidden and not _BLANK.search(text)


def fault_of(name: str) -> str | None:
    """What is wrong with the name of a key, as a sentence; None if it is fine."""
    normal = normal_form(name)
    shown = ascii(name[:100])
    if not is_plain(name):
        return f"The name {shown} has a control character or an invisible one. Use letters, digits and single spaces."
    if name != " ".join(name.split()) or not name:
        return f"The name {shown} has a space too many. Use single spaces, between words only."
    if len(name) > 100 or len(normal) > MAX_NORMAL_CHARACTERS:
        return f"The name has {len(name)} characters; the limit is 100. Choose a shorter name."
    if normal in RESERVED:
        return f"The name {shown} is reserved for the service itself. Choose another name."
    if normal.replace(" ", "").startswith(f"{EXTERNAL}:"):
        return (
            f"The name {shown} begins with `{EXTERNAL}:`, as names of users of the identity provider do. Choose "
            "another name."
        )
    if _ID.fullmatch(normal) or normal.startswith("lirf_"):
        return "The name looks like an id or a key. Choose a name that says who uses the key."
    if len(scripts := _scripts(name)) > 1:
        return f"The name {shown} mixes letters of {' and '.join(scripts)}, which look alike. Use one alphabet."
    return None


def _scripts(name: str) -> list[str]:
    """The alphabets with similar letters that occur in the name."""
    words = {unicodedata.name(char, "").partition(" ")[0] for char in name if char.isalpha()}
    return sorted(words & _ALIKE)
