"""`lirf register`, `models`, `remove`, `classes`, `policy` and `predict`: models and what they know."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import text_files
from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, ModelName, Reason, State, Url, Yes, demand_finite
from app.cli.output import (
    backups_until,
    cell,
    err,
    fail,
    moment,
    not_erased,
    out,
    percent,
    plain,
    show,
    table,
    typed_name,
)
from lirf_client import LirfError, Model
from lirf_core.architectures import ARCHITECTURES, SMALL

COLOURS = {"purged": "bright_black", "deposited": "red", "withdrawn": "yellow", "depositing": "magenta"}
HARDENINGS = {
    "served": "Targets are hardened, and the hardened network answers (served).",
    "export": "Targets are hardened, but the working target answers (export).",
    "none": "Targets are not hardened (none).",
}
SCRUBS = {
    "purge": "Older modules know a class that is deposited later until it is purged.",
    "deposit": "Older modules forget a class as soon as it is deposited.",
}
ORIGINALS = {"seal": "kept encrypted", "destroy": "destroyed"}

commands = typer.Typer()


@commands.command()
def register(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Name of the new model: lower-case letters, digits, '.', '_' and '-'."),
    ],
    weights: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="State dict as a safetensors file.")],
    classes: Annotated[
        str,
        typer.Option(help="Class names in the order of the outputs: separated by commas, or @FILE with one per line."),
    ],
    architecture: Annotated[str, typer.Option(help=f"One of {', '.join(ARCHITECTURES)}. {SMALL}")],
    size: Annotated[int, typer.Option(help="Height and width of the input in pixels.")],
    mean: Annotated[
        str, typer.Option(help="Mean of each channel, of values from 0 to 1. One number for grey, three for RGB.")
    ] = "0.485,0.456,0.406",
    std: Annotated[str, typer.Option(help="Standard deviation of each channel.")] = "0.229,0.224,0.225",
    exif_orientation: Annotated[
        str,
        typer.Option(
            help="apply: turn photos as their EXIF data say. ignore: take them as they are stored, for a network that "
            "was trained so."
        ),
    ] = "apply",
    width: Annotated[
        float, typer.Option(callback=demand_finite, help="Width factor; only for the -small architectures.")
    ] = 1.0,
    split: Annotated[
        str | None,
        typer.Option(
            help="Last module of the lower part, such as layer3 of a ResNet. Default: where the architecture forgets "
            "best with a small deposit module."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Register a classifier: its description and its weights.

    Example:
    lirf register birds --architecture resnet18 --size 224 \\
      --weights birds.safetensors --classes @classes.txt
    """
    labels = _class_names(classes)
    preprocessing = {"height": size, "width": size, "mean": _numbers(mean), "std": _numbers(std)}
    preprocessing["exif_orientation"] = exif_orientation
    with connect(url, state) as lirf:
        lirf.register_model(
            name,
            architecture={"name": architecture, "width": width},
            classes=labels,
            preprocessing=preprocessing,
            split=split,
        )
        try:
            model = lirf.put_weights(name, weights)
        except LirfError:
            lirf.remove_unfinished_model(name)
            raise
        message = f"is registered and serves its original network ({len(model['classes'])} classes)."
        warnings = "".join(f"\n[bold yellow]{warning}[/bold yellow]" for warning in model["warnings"])
        show(as_json, model, f"Model [bold]{name}[/bold] {message}{warnings}")


@commands.command("models")
def list_models(url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """List all models."""
    with connect(url, state) as lirf:
        models = lirf.models()
    headers = "model", "architecture", "classes", "state", "revision", "answers with", "registered by"
    rows = [
        (
            *map(cell, (model["name"], model["architecture"]["name"], len(model["classes"]))),
            *map(cell, (model["state"], model["revision"], _network(model), model["created_by"])),
        )
        for model in models
    ]
    listing = table(headers, rows, ("registered by", "revision"))
    show(as_json, models, listing if models else "There are no models yet. See `lirf register --help` to add one.")


def _network(model: Model) -> str:
    """What answers while nothing is withdrawn."""
    if model["hardening"]["is_served"]:
        return "hardened"
    return "target" if model["revision"] else "original"


@commands.command("remove")
def remove_model(
    model: ModelName,
    reason: Reason,
    confirmed: Yes = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Remove a model for good. This cannot be undone.

    Destroys its networks, deposit modules and data sets. The audit keeps its
    events, and its name stays taken.

    Example: lirf remove birds --reason "the service ends"
    """
    with connect(url, state) as lirf:
        consequence = f"This destroys every network, deposit module and data set of [bold]{plain(model)}[/bold]."
        confirmation = model if confirmed else typed_name(consequence)
        removed = lirf.remove_model(model, confirm=confirmation, reason=reason)
    message = f"Removed: model {plain(model)} no longer exists. {backups_until(removed['shred_effective_at'])}"
    show(as_json, removed, message + not_erased(removed["still_in"], removed["also_in"]))


@commands.command("classes")
def list_classes(model: ModelName, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """List a model's classes: state, since when, why, accuracy.

    Accuracy is measured on the original network, on the network before the class's
    deposit, on the target network (after) and on the recover network (recovered).
    The last two are those of the newest measurement.
    """
    with connect(url, state) as lirf:
        classes = lirf.classes(model)
    headers = "class", "state", "since", "by", "reason", "deposit", "original", "before", "after", "recovered"
    rows = [
        (
            cell(item["name"]),
            f"[{COLOURS.get(item['state'], 'green')}]{item['state']}[/]",
            moment(item["since"]),
            cell(item["by"]),
            cell(item["reason"]),
            cell(item["deposit_id"]),
            *(
                percent(item[key])
                for key in ("accuracy_original", "accuracy_before", "accuracy_after", "accuracy_recovered")
            ),
        )
        for item in classes
    ]
    show(as_json, classes, table(headers, rows, ("by", "since", "deposit", "before", "recovered", "reason")))


@commands.command("policy")
def show_or_change_policy(
    model: ModelName,
    original: Annotated[
        str | None,
        typer.Option(help="Networks from before a deposit: seal (keep them, encrypted) or destroy (shred them)."),
    ] = None,
    second_person: Annotated[
        bool | None,
        typer.Option(
            metavar="",
            help="Require a second person for deposits, withdrawals, restorations, purges, removal and policy changes.",
        ),
    ] = None,
    max_preserved_loss: Annotated[
        float | None,
        typer.Option(help="Points of accuracy that the preserved classes may lose by one deposit; 100: no bound."),
    ] = None,
    max_module_loss: Annotated[
        float | None,
        typer.Option(help="Points that the classes of a deposit, new or older, may lose when they are withdrawn."),
    ] = None,
    max_total_loss: Annotated[
        float | None, typer.Option(help="Points that classes may lose since the original network, in all.")
    ] = None,
    hardening: Annotated[
        str | None,
        typer.Option(help="Harden each target after its deposit: served (and answer with it), export (only) or none."),
    ] = None,
    scrub: Annotated[
        str | None,
        typer.Option(
            help="When older modules forget a deposited class: purge (when it is purged) or deposit (at once)."
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why it changes; recorded in the audit log.")] = None,
    confirmed: Yes = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Show a model's policy, or change it.

    Example: lirf policy birds --second-person --reason "rule of two"
    """
    with connect(url, state) as lirf:
        bounds: dict[str, Any] = {
            "max_preserved_loss": max_preserved_loss,
            "max_module_loss": max_module_loss,
            "max_total_loss": max_total_loss,
            "hardening": hardening,
            "scrub": scrub,
        }
        if original is None and second_person is None and not any(value is not None for value in bounds.values()):
            policy = lirf.policy(model)
        else:
            if reason is None:
                raise typer.BadParameter("A change of the policy needs a --reason.")
            if not confirmed and (original == "destroy" or scrub == "deposit"):
                what = "networks and modules" if original == "destroy" else "modules"
                err.print(f"This destroys all {what} of {plain(model)} that know later deposits' classes.")
                typer.confirm("Continue?", abort=True, err=True)
            policy = lirf.change_policy(
                model, reason=reason, original=original, needs_second_person=second_person, **bounds
            )
    originals = f"{ORIGINALS[policy['original']]} ({policy['original']})"
    need = "need" if policy["needs_second_person"] else "do not need"
    scrubs = SCRUBS["deposit" if policy["original"] == "destroy" else policy["scrub"]]
    show(
        as_json,
        policy,
        f"{plain(model)}: networks from before a deposit are {originals}. "
        f"Deposits, withdrawals, restorations, purges, removal and changes of this policy {need} a second person. "
        f"Preserved classes may lose {policy['max_preserved_loss']:g} points by one deposit and "
        f"{policy['max_total_loss']:g} since the original; a deposit's classes may lose "
        f"{policy['max_module_loss']:g} when they are withdrawn. "
        f"{HARDENINGS[policy['hardening']]} {scrubs}",
    )


@commands.command()
def predict(
    model: ModelName,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", exists=True, dir_okay=False, help="A PNG or JPEG file.")],
    top: Annotated[int, typer.Option(help="How many classes to show.")] = 5,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--token", envvar="LIRF_WITHDRAWAL_TOKEN", help="Token of a held withdrawal. Repeat it for several."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Show the most probable classes of an image.

    Example: lirf predict birds photo.jpg
    """
    with connect(url, state) as lirf:
        answer = lirf.predict(model, image, top=top, tokens=tokens or [])
    if unclear := [item["class"] for item in answer["predictions"] if not _is_number(item["probability"])]:
        fail(f"The network of {model} has no number for {', '.join(unclear)}: its weights or the image overflow.")
    listing = table(
        ("class", "probability"),
        [(cell(item["class"]), f"{item['probability']:.4f}") for item in answer["predictions"]],
    )
    listing.title = f"{plain(model)}, revision {answer['revision']}"
    show(as_json, answer, listing)
    if answer["withdrawals"] and not as_json:
        out.print(f"Withdrawals in use: {', '.join(answer['withdrawals'])}.", soft_wrap=True)


def _class_names(option: str) -> list[str]:
    """The names in the order of the outputs, so an empty one is refused: leaving it out would move all that follow."""
    names, places = [name.strip() for name in option.split(",")], "name"
    if option.startswith("@"):
        file = Path(option[1:])
        try:
            names, places = text_files.lines(file), f"line of '{file}', number"
        except text_files.NotText as error:
            raise typer.BadParameter(str(error)) from None
        except OSError as error:
            raise typer.BadParameter(f"'{file}' cannot be read: {error.strerror}.") from None
    if "" in names:
        raise typer.BadParameter(f"A {places} {names.index('') + 1}, is empty. Each output needs a name, in its order.")
    return names


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
        if all(map(math.isfinite, numbers)):
            return numbers
        raise ValueError
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a list of numbers. Write it like 0.5,0.5,0.5.") from None
