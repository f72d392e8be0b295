"""The digest of evidence, by which the audit and a certificate name it."""

import hashlib
import json
from typing import Any


def digest(found: dict[str, Any]) -> str:
    """SHA-256 of the JSON with sorted keys and no spaces, in UTF-8; numbers as Python writes them."""
    return hashlib.sha256(
        json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    ).hexdigest()
