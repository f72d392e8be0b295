"""The digest of evidence, which the audit and a certificate contain."""

import hashlib
import json
from typing import Any


def digest(evidence: dict[str, Any]) -> str:
    """SHA-256 of the JSON in UTF-8, with sorted keys, no spaces, and numbers as Python writes them."""
    return hashlib.sha256(
        json.dumps(evidence, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    ).hexdigest()
