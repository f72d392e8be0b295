"""Weights and archives for schemathesis, which by itself generates only JSON."""

import schemathesis
from hypothesis import strategies

from tests.app.factories import deposit_zip

ARCHIVES = strategies.binary(max_size=200) | strategies.builds(deposit_zip, strategies.just(["auk", "emu"]))
schemathesis.openapi.media_type("application/zip", ARCHIVES)
schemathesis.openapi.media_type("application/octet-stream", strategies.binary(max_size=200))
