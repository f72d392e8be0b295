"""Files and folders that only the service's own user may read: the state folder and the keys in it."""

import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)


class OpenToOthers(RuntimeError):
    """Other users of the machine can read a secret or put files in its place."""


def make_private(path: Path, user: int | None = None) -> None:
    """Take every permission from all but the owner, and say so. Raises `OpenToOthers` if that is not possible.

    user: who runs the service; default: this process's user. What a third user owns is refused, because an owner can
    always read and replace it. Root may own it, and may use what any user owns.
    """
    user = os.geteuid() if user is None else user
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if user != 0 and status.st_uid not in (user, 0):
        raise OpenToOthers(f"'{path}' belongs to another user. Run `lirf` as that user, or choose another --state.")
    if not mode & 0o077:
        return
    private = mode & 0o700
    try:
        path.chmod(private)
    except OSError as error:
        message = f"Other users can use '{path}' (mode {mode:04o}). Run `chmod {private:o} {path}` as its owner."
        raise OpenToOthers(message) from error
    log.warning("other users could use '%s' (mode %04o); its mode is now %04o", path, mode, private)
