"""The `lirf` command: `lirf up` runs the service, most other commands talk to it over HTTP."""

import typer

from app.cli import (
    approvals,
    audit,
    certificates,
    deposits,
    evidence,
    hardenings,
    keys,
    measurements,
    models,
    rebases,
    service,
    vault,
    withdrawals,
)
from app.cli.mistakes import Commands

HELP = """Learning with Recoverable Forgetting (LIRF): switch off what an image classifier knows about some classes, and
switch it on again.

Start a service with [bold]lirf up[/bold]. Run the other commands in a second terminal.
They find the service with --url or LIRF_URL. They take the API key from
LIRF_API_KEY, or from the state folder of a service on this machine.
"""

main = typer.Typer(
    cls=Commands, help=HELP, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
)


def _add(panel: str, commands: typer.Typer, group: str | None = None) -> None:
    """Add the commands to a panel of the help page, under the name of a group if there is one."""
    if group is None:
        for command in commands.registered_commands:
            command.rich_help_panel = panel
    main.add_typer(commands, name=group, rich_help_panel=panel)


_add("Service", service.commands)
_add("Service", vault.commands, "vault")
_add("Models", models.commands)
_add("Deposits", deposits.commands)
_add("Deposits", rebases.commands)
_add("Deposits", hardenings.commands)
_add("Withdrawals", withdrawals.commands)
_add("Evidence", evidence.commands)
_add("Evidence", measurements.commands)
_add("Evidence", certificates.commands, "certificate")
_add("Access and audit", keys.commands, "keys")
_add("Access and audit", approvals.commands, "approvals")
_add("Access and audit", audit.commands, "audit")
