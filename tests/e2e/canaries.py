"""Looks for secrets wherever the service writes: what callers sent, and what the service made from it.

That is on disk (state folder, temporary folder, logs), in every row of the database and every message of the broker.
"""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import redis
import sqlalchemy as sa
from PIL import Image

from app.base.database import Database
from app.base.settings import Settings
from app.vault.service import open_vault, stored_object
from app.vault.tables import VaultObjectRow
from tests.app.factories import CLASSES, png

KEY_FILES = ("master.key", "admin.key")  # of mode 0600; they may hold secrets
SECRET_BYTES = 24  # too long to appear by chance


def secrets_of(environment: dict[str, str], key: str) -> dict[str, bytes]:
    """By name: the client's key, the master key, images as files and as pixels, and the newest objects of the vault.

    The images are those of `tests.app.factories.deposit_zip`.
    """
    settings = Settings(_env_file=None, **_settings_of(environment))  # type: ignore[call-arg]
    secrets = {"the client's key": key.split("_", 2)[2].encode(), "the master key": settings.master_key.read_bytes()}
    for number in range(len(CLASSES)):
        for index in range(2):
            file = png(number * 1000 + index)
            pixels = Image.open(io.BytesIO(file)).tobytes()
            secrets[f"image {number}/{index} as a file"] = file[-40:-16]
            secrets[f"image {number}/{index} as pixels"] = pixels[:SECRET_BYTES]
    database, vault = Database(settings.database), open_vault(settings)
    with database.reading() as session:
        objects = sa.select(VaultObjectRow.id).where(VaultObjectRow.wrapped_key.is_not(None))
        for object_id in session.scalars(objects.order_by(VaultObjectRow.id.desc()).limit(20)).all():
            plaintext = vault.read(sealed := stored_object(session, object_id))
            middle = len(plaintext) // 2
            secret = plaintext[middle : middle + SECRET_BYTES]
            if len(set(secret)) > SECRET_BYTES // 3:  # not a run of zeros
                secrets[f"{sealed.binding.kind} {object_id}"] = secret
    database.engine.dispose()
    return secrets


def places(folder: Path, environment: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Each place where the service writes, with its content."""
    for path in [*(folder / "state").rglob("*"), *(folder / "tmp").rglob("*"), *folder.glob("*.log")]:
        if path.is_file() and path.name not in KEY_FILES:
            yield str(path), path.read_bytes()
    database = Database(Settings(_env_file=None, **_settings_of(environment)).database)  # type: ignore[call-arg]
    with database.engine.connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            for row in connection.execute(sa.text(f'SELECT * FROM "{table}"')):
                values = [value if isinstance(value, bytes) else str(value).encode() for value in row]
                yield f"table {table}", b"\0".join(values)
    database.engine.dispose()
    if broker_url := environment.get("LIRF_BROKER_URL"):
        broker = redis.Redis.from_url(broker_url)
        for name in broker.scan_iter():
            yield f"broker {name!r}", name + (broker.dump(name) or b"")


def leaks(folder: Path, environment: dict[str, str], secrets: dict[str, bytes]) -> list[str]:
    """The secrets that stand somewhere: as they are, in base64 (as in a broker's message) or in hexadecimal."""
    leaked = []
    for place, content in places(folder, environment):
        for name, secret in secrets.items():
            forms = (secret, base64.b64encode(secret[: len(secret) // 3 * 3]), secret.hex().encode())
            if any(form in content for form in forms):
                leaked.append(f"{name} in {place}")
    return leaked


def _settings_of(environment: dict[str, str]) -> dict[str, str]:
    return {
        name.removeprefix("LIRF_").lower(): value for name, value in environment.items() if name.startswith("LIRF_")
    }


def temporary_folder(folder: Path) -> dict[str, str]:
    """Environment variables that put the service's temporary files into a folder that `places` reads.

    Its path is too long for a socket.
    """
    temporary = folder / "tmp" / ("t" * 100)
    temporary.mkdir(parents=True, exist_ok=True)
    return {"TMPDIR": str(temporary)}
