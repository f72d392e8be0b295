"""The `lirf` command: `up` runs the service, everything else talks to it over HTTP."""

import typer

from app.cli import approvals, audit, certificates, deposits, evidence, keys, models, service, vault, withdrawals

HELP = """Learning with Recoverable Forgetting: switch off what an image classifier knows of some classes, and on again.

Start a service with [bold]lirf up[/bold]; the other commands talk to it. They find it by --url or LIRF_URL, and the API
key by LIRF_API_KEY or in the state folder of a service on this machine.
"""

main = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
main.add_typer(service.commands)
main.add_typer(models.commands)
main.add_typer(deposits.commands)
main.add_typer(withdrawals.commands)
main.add_typer(evidence.commands)
main.add_typer(certificates.commands, name="certificate")
main.add_typer(keys.commands, name="keys")
main.add_typer(audit.commands, name="audit")
main.add_typer(vault.commands, name="vault")
main.add_typer(approvals.commands, name="approvals")
