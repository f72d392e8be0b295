"""Hooks of mkdocs: equations as MathML, the routes from the application, links into the repository."""

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
    """Lists all decisions by number."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    config.nav[-1]["Decisions"] = [f"decisions/{page.name}" for page in decisions]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills in the routes, the equations and the links of a page."""
    if "{{ routes }}" in markdown:
        markdown = markdown.replace("{{ routes }}", routes())
    markdown = _BLOCK.sub(lambda match: _math(match[1], "block"), markdown)
    markdown = _INLINE.sub(lambda match: _math(match[1], "inline"), markdown)
    return _LINK.sub(lambda match: _outward(match[1], page.file.src_uri), markdown)


def _math(latex: str, display: str) -> str:
    mathml = latex2mathml.converter.convert(latex.strip(), display=display)
    return mathml if display == "block" else f"<span>{mathml}</span>"  # Markdown lets a span begin a line


def _outward(link: str, page: str) -> str:
    """A link to a file outside of `docs` leads to the repository."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return link if path.startswith("docs/") else f"{REPOSITORY}/{path}"


def routes() -> str:
    """Each operation in the application's OpenAPI description, by tag."""
    from app.main import routes as application_routes

    description = application_routes().openapi()
    schemas, by_tag = description["components"]["schemas"], dict[str, list[str]]()
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            by_tag.setdefault(tag, []).append(_operation(method, path, operation, schemas))
    return "\n\n".join(f"## {tag}\n\n" + "\n\n".join(operations) for tag, operations in by_tag.items())


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    lines = [f"### `{method.upper()} {path}`", "", operation.get("description", operation["summary"]), ""]
    if parameters := operation.get("parameters"):
        lines += ["| parameter | in | |", "|---|---|---|"]
        for parameter in parameters:
            text = parameter.get("description") or ("required" if parameter.get("required") else "")
            lines.append(f"| `{parameter['name']}` | {parameter['in']} | {text} |")
        lines.append("")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {}).get("$ref", "").split("/")[-1]
        if examples := schemas.get(schema, {}).get("examples"):
            example = json.dumps(examples[0])
            lines += ["```json", example if len(example) > 800 else json.dumps(examples[0], indent=2), "```", ""]
        if properties := schemas.get(schema, {}).get("properties"):
            required = schemas[schema].get("required", [])
            lines += [f"Body (`{kind}`):", "", "| field | |", "|---|---|"]
            for name, field in properties.items():
                text = field.get("description", "") + (" Required." if name in required else "")
                lines.append(f"| `{name}` | {text.strip()} |".replace("\n", " "))
            lines.append("")
    answers = [f"{status} {answer['description']}" for status, answer in operation["responses"].items()]
    return "\n".join([*lines, "Answers: " + "; ".join(answers) + "."])
