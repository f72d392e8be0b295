"""Networks with the rows of deposited classes put back, as training and measuring need them.

What is served lacks these rows. A target that is asked with them in place has to have forgotten the classes itself.
"""

from collections.abc import Iterable, Sequence

from app.registry.service import StoredNetwork
from app.vault.service import StoredObject, Vault
from lirf_core import artifacts
from lirf_core import class_rows as rows
from lirf_core.belonging import Belonging
from lirf_core.class_rows import Rows
from lirf_core.network import SplitNetwork


def rows_of(modules: Iterable[StoredObject], belonging: Belonging, vault: Vault) -> list[Rows]:
    """The rows in these deposit modules. Raises `VaultDamaged`."""
    found = (artifacts.module_rows(vault.read(stored), belonging) for stored in modules)
    return [own for own in found if own]


def open_whole(stored: StoredNetwork, deposited: Sequence[Rows], vault: Vault) -> SplitNetwork:
    """The network with the deposited rows put back; those of purged deposits stay absent. Raises `VaultDamaged`."""
    network = stored.open(vault)
    rows.put_back(network, [own for own in deposited if not network.absent.isdisjoint(own.classes)])
    return network
