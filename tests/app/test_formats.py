"""What docs/formats.md says, read with nothing but a JSON parser, AES-GCM and HKDF: none of our code, and no Tink."""

import base64
import copy
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from PIL import Image

from app.base.settings import Settings
from app.vault.service import Binding, open_vault
from demo.digits import SPEC
from lirf_core import artifacts, quantisation
from lirf_core import class_rows as rows
from lirf_core.belonging import Belonging
from lirf_core.images.archives import ImageArchive
from lirf_core.images.decoding import Decoders
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.network import SplitNetwork, digest
from lirf_core.quantisation import Grid
from lirf_core.recover import DepositModule


def message(data: bytes) -> dict[int, Any]:
    """A protocol buffer, as far as a keyset needs it: numbers and bytes by the number of their field."""
    fields: dict[int, Any] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            fields[tag >> 3] = number()
        else:
            assert tag & 7 == 2
            size = number()
            fields[tag >> 3], at = data[at : at + size], at + size
    return fields


def unwrapped(master_key_file: Path, sealed: bytes, associated: bytes) -> bytes:
    """The section "Master key file", and its wrapping."""
    assert sealed[0] == 1
    keys = {key["keyId"]: key for key in json.loads(master_key_file.read_text())["key"]}
    key = keys[int.from_bytes(sealed[1:5], "big")]
    assert (key["status"], key["outputPrefixType"]) == ("ENABLED", "TINK")
    assert key["keyData"]["typeUrl"] == "type.googleapis.com/google.crypto.tink.AesGcmKey"
    value = base64.b64decode(key["keyData"]["value"])
    assert (value[:2], len(value)) == (b"\x1a\x20", 34)
    return AESGCM(value[2:]).decrypt(sealed[5:17], sealed[17:], associated)


def decrypted(ciphertext: bytes, data_key: bytes, associated: bytes) -> bytes:
    """The section "Vault objects"."""
    segment = 1 << 20
    assert ciphertext[0] == 40
    salt, prefix = ciphertext[1:33], ciphertext[33:40]
    key = AESGCM(HKDF(SHA256(), 32, salt, associated).derive(data_key))
    starts = [40, *range(segment, len(ciphertext), segment)]
    parts = [ciphertext[a:b] for a, b in zip(starts, [*starts[1:], len(ciphertext)], strict=True)]
    nonces = [prefix + number.to_bytes(4, "big") + bytes([number + 1 == len(parts)]) for number in range(len(parts))]
    return b"".join(key.decrypt(nonce, part, b"") for nonce, part in zip(nonces, parts, strict=True))


def test_a_vault_object_opens_by_the_page(tmp_path: Path) -> None:
    settings = Settings(state_folder=tmp_path)
    content = bytes(range(256)) * 10_000  # three segments
    stored = open_vault(settings).put(Binding("module", "M", "D"), [content])
    associated = b'{"format": 1, "kind": "module", "model_id": "M", "subject_id": "D"}'
    ciphertext = (tmp_path / "vault" / stored.name[:2] / stored.name).read_bytes()
    assert hashlib.sha256(ciphertext).hexdigest() == stored.name

    keyset = message(unwrapped(tmp_path / "master.key", stored.wrapped_key, associated))
    key = message(keyset[2])
    data = message(key[1])
    assert (keyset[1], key[2], key[4]) == (key[3], 1, 3)  # the primary key, enabled, RAW
    assert data[1] == b"type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey"
    streaming = message(data[2])
    assert message(streaming[2]) == {1: 1 << 20, 2: 32, 3: 3}  # bytes of a segment, of a derived key; SHA-256
    assert decrypted(ciphertext, streaming[3], associated) == content


def test_a_sealed_value_opens_by_the_page(tmp_path: Path) -> None:
    sealed = open_vault(Settings(state_folder=tmp_path)).seal(b"an answer", b'["answer", "K", "I"]')
    assert unwrapped(tmp_path / "master.key", sealed, b'["answer", "K", "I"]') == b"an answer"


def tensors(file: bytes) -> tuple[dict[str, str], dict[str, tuple[str, list[int], bytes]]]:
    """The section "safetensors": metadata, then type, shape and bytes of each tensor by its name."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    assert (8 + size) % 8 == 0
    metadata = header.pop("__metadata__", {})
    begin = 8 + size
    return metadata, {
        name: (one["dtype"], one["shape"], file[begin + one["data_offsets"][0] : begin + one["data_offsets"][1]])
        for name, one in header.items()
    }


@pytest.mark.slow
def test_a_deposit_module_on_a_grid_reads_by_the_page(digits_network: SplitNetwork) -> None:
    lower = digits_network.lower
    scales = {"conv1.weight": quantisation._best_scale(lower.state_dict()["conv1.weight"], 31)}
    on_grid = (lower.state_dict()["conv1.weight"] / scales["conv1.weight"].view(-1, 1, 1, 1)).round().clamp(-31, 31)
    module = copy.deepcopy(lower)
    module.load_state_dict({**module.state_dict(), "conv1.weight": on_grid * scales["conv1.weight"].view(-1, 1, 1, 1)})
    belonging = Belonging(SPEC, "layer3", digest(digits_network.upper))
    stored_module = DepositModule(
        module, [0, 2], belonging.upper_digest, "averaged", 0.5, Grid(6, scales), known=[0, 2, 3]
    )
    file = artifacts.dump_module(stored_module, belonging)

    metadata, stored = tensors(file)
    assert metadata.keys() == {
        *("format", "part", "architecture", "split", "upper_digest"),
        *("widths", "classes", "known", "joining", "weight", "bits"),
    }
    assert (metadata["format"], metadata["part"], metadata["classes"]) == ("lirf/1", "module", "[0, 2]")
    assert metadata["known"] == "[0, 2, 3]"
    assert (metadata["joining"], metadata["weight"], metadata["bits"]) == ("averaged", "0.5", "6")
    kind, [count], codes = stored["conv1.weight.codes"]
    assert (kind, count) == ("U8", len(codes))
    bits = "".join(f"{byte:08b}" for byte in codes)
    numbers = [int(bits[at : at + 6], 2) - 31 for at in range(0, on_grid.numel() * 6, 6)]
    assert numbers == on_grid.flatten().int().tolist()
    assert stored["conv1.weight.scales"][:2] == ("F32", [len(on_grid)])
    assert stored["bn1.num_batches_tracked"][:2] == ("I64", [])
    assert {kind for kind, _, _ in stored.values()} <= {"U8", "F32", "F16", "I64"}


def test_an_upper_part_in_pieces_is_put_together_by_the_page(digits_network: SplitNetwork) -> None:
    belonging = Belonging(SPEC, "layer2", digest(digits_network.upper))
    deposited = rows.take(digits_network, [2, 0])
    module = DepositModule(digits_network.lower, [2, 0], belonging.upper_digest, rows=deposited)
    kept = rows.take(digits_network, [1, *range(3, SPEC.classes)])
    files = {
        "trunk": artifacts.dump_trunk(digits_network, belonging),
        "rows": artifacts.dump_rows(kept, belonging),
        "module": artifacts.dump_module(module, belonging),
    }
    parts = {part: tensors(file) for part, file in files.items()}
    assert [metadata["part"] for metadata, _ in parts.values()] == [*parts]
    kind, [count], numbers = parts["rows"][1]["row_classes"]
    assert kind == "I64"
    row_classes = [int.from_bytes(numbers[at : at + 8], "little") for at in range(0, 8 * count, 8)]
    classes = {"rows": row_classes, "module": json.loads(parts["module"][0]["classes"])}

    trunk = parts["trunk"][1]
    kind, shape, row_digests = trunk.pop("row_digests")
    assert (kind, shape) == ("U8", [SPEC.classes, 32])
    weights, biases = {}, {}
    for part, held in classes.items():
        kind, [_, features], weight = parts[part][1]["fc.weight"]
        assert kind == parts[part][1]["fc.bias"][0] == "F32"
        for place, index in enumerate(held):
            weights[index] = weight[4 * features * place : 4 * features * (place + 1)]
            biases[index] = parts[part][1]["fc.bias"][2][4 * place : 4 * (place + 1)]
            row_digest = hashlib.sha256(weights[index] + biases[index]).digest()
            assert row_digest == row_digests[32 * index : 32 * (index + 1)]
    whole = b"".join(weights[index] for index in range(SPEC.classes))
    bias = b"".join(biases[index] for index in range(SPEC.classes))
    upper = {**trunk, "fc.weight": ("F32", [SPEC.classes, features], whole), "fc.bias": ("F32", [SPEC.classes], bias)}
    hasher, types = hashlib.sha256(), {"F32": "torch.float32", "I64": "torch.int64"}
    for name, (kind, shape, content) in sorted(upper.items()):
        hasher.update(f"{name}:{types[kind]}:{shape}\n".encode() + content)
    assert hasher.hexdigest() == belonging.upper_digest


def test_a_packed_image_set_reads_by_the_page() -> None:
    archive, png = io.BytesIO(), io.BytesIO()
    pixels = numpy.arange(48, dtype=numpy.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(png, "PNG")
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("auk/1.png", png.getvalue())
    decoders = Decoders()
    try:
        size = Preprocessing(4, 4, (0.5,) * 3, (0.5,) * 3)
        packed = b"".join(ImageArchive(archive, ["dodo", "auk"]).pack(size, decoders))
    finally:
        decoders.close()
    metadata, stored = tensors(packed)
    assert not metadata
    assert [*stored] == ["labels", "images"]
    assert stored["labels"] == ("I64", [1], (1).to_bytes(8, "little"))
    assert stored["images"] == ("U8", [1, 3, 4, 4], pixels.transpose(2, 0, 1).tobytes())
