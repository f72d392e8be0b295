"""Secrets that must be nowhere: what was sent in and what was made of it, looked for wherever the service writes.

On disk (state folder, temporary folder, logs), in every row of a database, and in every message of a broker.
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

KEYS = ("master.key", "admin.key")  # of mode 0600, and nothing else is in them
BYTES = 24  # of a secret: none is there by chance


def secrets_of(environment: dict[str, str], key: str) -> dict[str, bytes]:
    """The key of a client, the master key, images as files and as pixels, and the newest objects of the vault.

    The images are those of `tests.app.factories.deposit_zip`.
    """
    settings = Settings(_env_file=None, **_of(environment))  # type: ignore[call-arg]
    found = {"the client's key": key.split("_", 2)[2].encode(), "the master key": settings.master_key.read_bytes()}
    for number in range(len(CLASSES)):
        for index in range(2):
            file = png(number * 1000 + index)
            pixels = Image.open(io.BytesIO(file)).tobytes()
            found[f"image {number}/{index} as a file"] = file[-40:-16]
            found[f"image {number}/{index} as pixels"] = pixels[:BYTES]
    database, vault = Database(settings.database), open_vault(settings)
    with database.reading() as session:
        live = sa.select(VaultObjectRow.id).where(VaultObjectRow.wrapped_key.is_not(None))
        for object_id in session.scalars(live.order_by(VaultObjectRow.id.desc()).limit(20)).all():
            plaintext = vault.read(sealed := stored_object(session, object_id))
            middle = len(plaintext) // 2
            if len(set(plaintext[middle : middle + BYTES])) > BYTES // 3:  # and no run of zeros
                found[f"{sealed.binding.kind} {object_id}"] = plaintext[middle : middle + BYTES]
    database.engine.dispose()
    return found


def places(folder: Path, environment: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Where the service writes, and what is there."""
    for path in [*(folder / "state").rglob("*"), *(folder / "tmp").rglob("*"), *folder.glob("*.log")]:
        if path.is_file() and path.name not in KEYS:
            yield str(path), path.read_bytes()
    database = Database(Settings(_env_file=None, **_of(environment)).database)  # type: ignore[call-arg]
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
    """Each secret that was found, as it is, in base64 (as a broker's message has it) or in hexadecimal; and where."""
    found = []
    for place, content in places(folder, environment):
        for what, secret in secrets.items():
            written = (secret, base64.b64encode(secret[: len(secret) // 3 * 3]), secret.hex().encode())
            if any(form in content for form in written):
                found.append(f"{what} in {place}")
    return found


def _of(environment: dict[str, str]) -> dict[str, str]:
    return {
        name.removeprefix("LIRF_").lower(): value for name, value in environment.items() if name.startswith("LIRF_")
    }


def temporary_folder(folder: Path) -> dict[str, str]:
    """For the environment of the service: temporary files where they are looked for."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {"TMPDIR": str(temporary)}
