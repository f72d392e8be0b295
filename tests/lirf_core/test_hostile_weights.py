"""Weights come in untrusted files. Whatever is in one, it is refused with a message, or it is a network."""

import io
import json
import random
import resource

import pytest
import safetensors.torch
import torch

from lirf_core import artifacts
from lirf_core.network import flat_state
from tests.doses import dose
from tests.lirf_core.factories import SPEC, network

FILES = dose(2000, 20_000)
MEMORY_BYTES = 64 << 20
NUMBERS = [0, -1, 1 << 62, [1 << 62, 0], 1e308, True]
HOSTILE = [*NUMBERS, "../../etc/passwd", None, {}, [], "F32", "I8", "\ud800", "x" * 5000]


def mutated(good: bytes, chance: random.Random) -> bytes:
    header_bytes = int.from_bytes(good[:8], "little")
    kind = chance.randrange(6)
    if kind == 0:  # flip bits of the header
        damaged = bytearray(good)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(8 + header_bytes)] ^= 1 << chance.randrange(8)
        return bytes(damaged)
    if kind == 1:  # change its length
        return chance.randrange(1 << chance.choice([8, 20, 40, 63])).to_bytes(8, "little") + good[8:]
    if kind == 2:  # shorten or extend the file
        return good[: chance.randrange(len(good))] if chance.random() < 0.5 else good + chance.randbytes(64)
    if kind == 3:  # change bytes of the numbers
        damaged = bytearray(good)
        for _ in range(64):
            damaged[chance.randrange(8 + header_bytes, len(good))] = chance.choice([0, 0x7F, 0x80, 0xFF])
        return bytes(damaged)
    entries = json.loads(good[8 : 8 + header_bytes])
    name = chance.choice(list(entries))
    if kind == 4:  # change one value of the header
        field = chance.choice(["dtype", "shape", "data_offsets"])
        entries[name] = {**entries[name], field: chance.choice(HOSTILE)}
    else:  # change a name
        entries[str(chance.choice(HOSTILE))] = entries.pop(name)
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + good[8 + header_bytes :]


@pytest.mark.attack
@pytest.mark.timeout(1200)
def test_thousands_of_damaged_files_are_refused_or_fit() -> None:
    good = safetensors.torch.save(flat_state(network()))
    chance = random.Random(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded, refusals = 0, []
    for _ in range(FILES):
        try:
            original = artifacts.load_original(io.BytesIO(mutated(good, chance)), SPEC, "layer2")
        except (artifacts.NotSafetensors, artifacts.DoesNotFit) as refusal:
            refusals.append(str(refusal))
        else:
            loaded += 1
            assert all(torch.isfinite(tensor).all() for tensor in flat_state(original).values())
    assert max(map(len, refusals)) < 1000
    assert 0 < loaded < FILES / 2  # in some, only the numbers differ
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY_BYTES
