"""What mkdocs does besides: equations as MathML, the routes from the application, links into the repository."""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/lirf/lirf/blob/main"
_BLOCK, _INLINE = re.compile(r"^\$\$(.+?)\$\$$", re.MULTILINE | re.DOTALL), re.compile(r"\\\((.+?)\\\)")
_LINK = re.compile(r"(?<=\]\()(\.\./[^)#]*)(?=[)#])")


def on_config(config: Any) -> Any:
    """All decisions, in their order."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    config.nav[-1]["Decisions"] = [f"decisions/{page.name}" for page in decisions]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if "{{ routes }}" in markdown:
        markdown = markdown.replace("{{ routes }}", routes())
    markdown = _BLOCK.sub(lambda found: _math(found[1], "block"), markdown)
    markdown = _INLINE.sub(lambda found: _math(found[1], "inline"), markdown)
    return _LINK.sub(lambda found: _outward(found[1], page.file.src_uri), markdown)


def _math(latex: str, display: str) -> str:
    drawn = latex2mathml.converter.convert(latex.strip(), display=display)
    return drawn if display == "block" else f"<span>{drawn}</span>"  # which may begin a line


def _outward(link: str, page: str) -> str:
    """What lies outside of `docs` is in the repository."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return link if path.startswith("docs/") else f"{REPOSITORY}/{path}"


def routes() -> str:
    """Each operation of the application's own description."""
    from app.main import routes as application_routes

    described = application_routes().openapi()
    schemas, by_tag = described["components"]["schemas"], dict[str, list[str]]()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            by_tag.setdefault(tag, []).append(_operation(method, path, operation, schemas))
    return "\n\n".join(f"## {tag}\n\n" + "\n\n".join(operations) for tag, operations in by_tag.items())


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    lines = [f"### `{method.upper()} {path}`", "", operation.get("description", operation["summary"]), ""]
    if parameters := operation.get("parameters"):
        lines += ["| parameter | in | |", "|---|---|---|"]
        for one in parameters:
            told = one.get("description") or ("required" if one.get("required") else "")
            lines.append(f"| `{one['name']}` | {one['in']} | {told} |")
        lines.append("")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {}).get("$ref", "").split("/")[-1]
        if examples := schemas.get(schema, {}).get("examples"):
            told = json.dumps(examples[0])
            lines += ["```json", told if len(told) > 800 else json.dumps(examples[0], indent=2), "```", ""]
        if properties := schemas.get(schema, {}).get("properties"):
            required = schemas[schema].get("required", [])
            lines += [f"Body (`{kind}`):", "", "| field | |", "|---|---|"]
            for name, field in properties.items():
                told = field.get("description", "") + (" Required." if name in required else "")
                lines.append(f"| `{name}` | {told.strip()} |".replace("\n", " "))
            lines.append("")
    answers = [f"{status} {answer['description']}" for status, answer in operation["responses"].items()]
    return "\n".join([*lines, "Answers: " + "; ".join(answers) + "."])
