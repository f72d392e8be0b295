"""Models and their classes: `lirf register`, `models`, `classes`, `policy`, `predict`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app.cli.connection import connect
from app.cli.options import DEFAULT_STATE, DEFAULT_URL, Json, ModelName, State, Url
from app.cli.output import cell, err, moment, out, percent, show, table
from lirf_client import LirfError

ARCHITECTURES = (  # of lirf_core, which takes seconds to import
    "resnet18, resnet34, resnet50, resnet18-small, resnet34-small, resnet50-small, vgg11_bn, vgg13_bn, vgg16_bn, "
    "vgg19_bn, mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large, efficientnet_b0, efficientnet_b1, "
    "efficientnet_b2, efficientnet_b3, efficientnet_b4, efficientnet_b5, efficientnet_b6, efficientnet_b7, "
    "efficientnet_v2_s, efficientnet_v2_m, efficientnet_v2_l, densenet121, densenet161, densenet169, densenet201, "
    "convnext_tiny, convnext_small, convnext_base, convnext_large, vit_b_16, vit_b_32"
)

commands = typer.Typer()


@commands.command()
def register(
    name: Annotated[str, typer.Argument(help="Name of the new model: lower-case letters, digits, '.', '_' and '-'.")],
    weights: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="safetensors file of the state dict.")],
    classes: Annotated[
        str, typer.Option(help="Comma-separated names in the order of the outputs, or @FILE, a line each.")
    ],
    architecture: Annotated[str, typer.Option(help=f"One of {ARCHITECTURES}.")],
    size: Annotated[int, typer.Option(help="Height and width of the input in pixels.")],
    mean: Annotated[str, typer.Option(help="Per channel, of values from 0 to 1.")] = "0.485,0.456,0.406",
    std: Annotated[str, typer.Option(help="Per channel.")] = "0.229,0.224,0.225",
    width: Annotated[float, typer.Option(help="Width factor of a -small architecture.")] = 1.0,
    split: Annotated[
        str | None, typer.Option(help="Last module of the lower part, such as layer2 of a ResNet; else its middle.")
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Register a classifier: its description, then its weights."""
    names = Path(classes[1:]).read_text().splitlines() if classes.startswith("@") else classes.split(",")
    preprocessing = {"height": size, "width": size, "mean": _numbers(mean), "std": _numbers(std)}
    with connect(url, state) as lirf:
        lirf.register_model(
            name,
            architecture={"name": architecture, "width": width},
            classes=[label.strip() for label in names if label.strip()],
            preprocessing=preprocessing,
            split=split,
        )
        try:
            model = lirf.put_weights(name, weights)
        except LirfError:
            lirf.remove_unfinished_model(name)
            raise
        show(as_json, model, f"Model [bold]{name}[/bold] serves its original network, {len(model['classes'])} classes.")


@commands.command()
def models(url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """List the models."""
    with connect(url, state) as lirf:
        found = lirf.models()
        headers = "model", "architecture", "classes", "state", "revision", "registered by"
        rows = [
            (
                *map(cell, (model["name"], model["architecture"]["name"], len(model["classes"]))),
                *map(cell, (model["state"], model["revision"], model["created_by"])),
            )
            for model in found
        ]
        listed = table(headers, rows, ("registered by", "revision"))
        show(as_json, found, listed if found else "There is no model yet; `lirf register --help` says how to add one.")


@commands.command()
def classes(model: ModelName, url: Url = DEFAULT_URL, state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Show every class of a model: its state, since when, by whom, why, and accuracy before and after."""
    with connect(url, state) as lirf:
        found = lirf.classes(model)
        headers = "class", "state", "since", "by", "reason", "deposit", "before", "after", "recovered"
        colours = {"purged": "bright_black", "deposited": "red", "withdrawn": "yellow", "depositing": "magenta"}
        rows = [
            (
                cell(item["name"]),
                f"[{colours.get(item['state'], 'green')}]{item['state']}[/]",
                moment(item["since"]),
                cell(item["by"]),
                cell(item["reason"]),
                cell(item["deposit_id"]),
                *(percent(item[key]) for key in ("accuracy_before", "accuracy_after", "accuracy_recovered")),
            )
            for item in found
        ]
        show(as_json, found, table(headers, rows, ("by", "since", "deposit", "recovered", "reason")))


@commands.command()
def policy(
    model: ModelName,
    original: Annotated[
        str | None, typer.Option(help="seal: networks from before a deposit are kept, encrypted; destroy: shredded.")
    ] = None,
    second_person: Annotated[
        bool | None,
        typer.Option(help="Whether withdrawals, restorations, purges and this policy need somebody with another key."),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why it is changed; the audit keeps it.")] = None,
    confirmed: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Show a model's policy, or change it."""
    with connect(url, state) as lirf:
        if original is None and second_person is None:
            found = lirf.policy(model)
        else:
            if reason is None:
                raise typer.BadParameter("a change needs a --reason.")
            if original == "destroy" and not confirmed:
                err.print(f"This destroys every network of {escape(model)} that knows what is deposited.")
                typer.confirm("Go on?", abort=True, err=True)
            found = lirf.change_policy(model, reason=reason, original=original, needs_second_person=second_person)
        needs = "need" if found["needs_second_person"] else "do not need"
        show(
            as_json,
            found,
            f"{escape(model)}: networks from before a deposit: {found['original']}. "
            f"Withdrawals, restorations, purges and changes of this policy {needs} a second person.",
        )


@commands.command()
def predict(
    model: ModelName,
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="PNG or JPEG file.")],
    top: Annotated[int, typer.Option(help="How many classes.")] = 5,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--token", envvar="LIRF_WITHDRAWAL_TOKEN", help="Of a held withdrawal; may be given several times."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Ask a model what an image shows."""
    with connect(url, state) as lirf:
        found = lirf.predict(model, image, top=top, tokens=tokens or [])
        listed = table(
            ("class", "probability"),
            [(cell(item["class"]), f"{item['probability']:.4f}") for item in found["predictions"]],
        )
        listed.title = f"{model}, revision {found['revision']}"
        show(as_json, found, listed)
        if found["withdrawals"] and not as_json:
            out.print(f"Seen through withdrawal {', '.join(found['withdrawals'])}.", soft_wrap=True)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a list of numbers such as 0.5,0.5,0.5") from None
