"""Text of strangers for terminals and logs, which obey control characters."""

import re

# C0 and C1 controls, the separators that some programs take for line ends, and what changes the direction of text.
_COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str, keep: str = "") -> str:
    """The text with control characters, except those in `keep`, as escape sequences such as `\\x1b`."""
    return _COMMANDS.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)
