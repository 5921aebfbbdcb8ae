"""The document as one HTML page.

It is written from the document and nothing else: without scripts, fonts or pictures it needs no other host.
"""

from __future__ import annotations

import html
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STYLE: Final = files(__package__).joinpath("page.css").read_bytes()
STYLE_PATH: Final = "/docs/style.css"

_METHODS: Final = ("get", "post")


def render(document: Mapping[str, Any]) -> str:
    """The whole page for an OpenAPI document that `gateway.rest.openapi` made."""
    info = document["info"]
    operations = [
        (path, method, item[method])
        for path, item in document["paths"].items()
        for method in _METHODS
        if method in item
    ]
    tags = [(tag, [each for each in operations if tag["name"] in each[2]["tags"]]) for tag in document["tags"]]
    contents = _join(
        f"<h2>{_text(tag['name'])}</h2><ul>{_join(_entry(*each) for each in members)}</ul>" for tag, members in tags
    )
    parts = _join(
        f"<h2>{_text(tag['name'])}</h2>{prose(tag['description'])}{_join(_operation(*each) for each in members)}"
        for tag, members in tags
    )
    schemas = document["components"]["schemas"]
    records = _join(f"<h3 id='{_text(name)}'>{_text(name)}</h3>{fields(schema)}" for name, schema in schemas.items())
    title = _text(info["title"])
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title} API</title><link rel='stylesheet' href='{STYLE_PATH}'></head><body><div class='page'>"
        f"<nav><a href='#top'>{title}</a><a href='/openapi.json'>openapi.json</a>{contents}"
        "<h2>Data</h2><ul><li><a href='#data'>Schemas</a></li></ul></nav>"
        f"<main id='top'><h1>{title} <small>{_text(info['version'])}</small></h1>"
        f"{prose(info['summary'])}{prose(info['description'])}{parts}<h2 id='data'>Data</h2>{records}</main>"
        "</div></body></html>"
    )


def _entry(path: str, method: str, operation: Mapping[str, Any]) -> str:
    return f"<li><a href='#{operation['operationId']}'>{method.upper()} {_text(path)}</a></li>"


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    return (
        f"<section><h3 id='{operation['operationId']}'><span class='method'>{method.upper()}</span>{_text(path)}</h3>"
        f"{details(operation)}</section>"
    )


def details(operation: Mapping[str, Any]) -> str:
    """One operation below its heading: what it does, code to copy, parameters, body and answers."""
    return (
        f"<p><b>{_text(operation['summary'])}</b></p>{prose(operation.get('description', ''))}"
        f"{_join(_sample(sample) for sample in operation['x-codeSamples'])}"
        f"{_parameters(operation['parameters'])}{_body(operation.get('requestBody'))}"
        f"{_responses(operation['responses'])}"
    )


def _sample(sample: Mapping[str, str]) -> str:
    return f"<p class='label'>{_text(sample['label'])}</p>{_code(sample['source'])}"


def _parameters(parameters: Iterable[Mapping[str, Any]]) -> str:
    rows = (
        (f"<code>{_text(each['name'])}</code>", each["in"], _written(each), prose(each["description"]))
        for each in parameters
    )
    return f"<h4>Parameters</h4>{_table(('name', 'in', 'values', 'meaning'), rows)}"


def _written(parameter: Mapping[str, Any]) -> str:
    commas = ", with commas between" if parameter.get("explode") is False else ""
    return _type(parameter["schema"]) + commas


def _body(body: Mapping[str, Any] | None) -> str:
    if body is None:
        return ""
    kinds = ((f"<code>{_text(kind)}</code>", _content(content)) for kind, content in body["content"].items())
    return f"<h4>Body</h4>{prose(body['description'])}{_table(('content type', 'content'), kinds)}"


def _responses(responses: Mapping[str, Mapping[str, Any]]) -> str:
    def row(status: str, response: Mapping[str, Any]) -> tuple[str, str]:
        contents = response.get("content", {}).items()
        shown = _join(f"<p class='type'>{_text(kind)}</p>{_content(content)}" for kind, content in contents)
        return f"<b>{status}</b>", prose(response["description"]) + shown

    return f"<h4>Answers</h4>{_table(('status', 'meaning'), (row(*each) for each in responses.items()))}"


def _content(content: Mapping[str, Any]) -> str:
    """One media type: what it holds, and examples behind a fold; of several the first is unfolded."""
    schema = content["schema"]
    shown = "" if "properties" in schema else f"<p>{_type(schema)}</p>"
    if "example" in content:
        return shown + _example("Example", content["example"])
    examples = content.get("examples", {}).values()
    return shown + _join(
        _example(each["summary"], each["value"], " open" if index == 0 else "") for index, each in enumerate(examples)
    )


def _example(summary: str, value: object, state: str = "") -> str:
    encoded = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    return f"<details{state}><summary>{_text(summary)}</summary>{_code(encoded)}</details>"


def fields(schema: Mapping[str, Any]) -> str:
    """A record's fields; of a list those of its items."""
    return prose(schema["description"]) + _table(("field", "values", "meaning"), _rows(schema.get("items", schema), ""))


def _rows(schema: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, ...]]:
    """A row for each field, and below it those of a record, or of a list of records, that has no name of its own."""
    for name, field in schema.get("properties", {}).items():
        required = "" if name in schema.get("required", ()) else " <span class='type'>(optional)</span>"
        yield f"<code>{prefix}{_text(name)}</code>{required}", _type(field), prose(field.get("description", ""))
        inner = field.get("items", field)
        yield from _rows(inner, f"{prefix}{_text(name)}{'' if inner is field else '[]'}.")


def _type(schema: Mapping[str, Any]) -> str:
    """Which values a schema takes, in words."""
    if schema.get("format") == "binary":
        return "bytes"
    if "$ref" in schema:
        name = _text(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "const" in schema:
        return _value(schema["const"])
    if "enum" in schema:
        return " or ".join(_value(value) for value in schema["enum"])
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(_type(each) for each in schema[choice])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words = f"list of {_type(schema['items'])}" if "items" in schema else " or ".join(kinds)
    limits = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    default = [f"default {_value(schema['default'])}"] if "default" in schema else []
    return ", ".join([" ".join([words, *limits]), *default])


def _value(value: object) -> str:
    """A value as JSON has it, but a text without its quotes."""
    return f"<code>{_text(value if isinstance(value, str) else orjson.dumps(value).decode())}</code>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = _join(f"<th>{name}</th>" for name in head)
    body = _join(f"<tr>{_join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>"


def prose(text: str) -> str:
    """Paragraphs, with code between backquotes: as much of Markdown as the document uses."""
    coded = re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))
    return _join(f"<p>{paragraph}</p>" for paragraph in coded.split("\n\n") if paragraph)


def _code(source: str) -> str:
    return f"<pre><code>{_text(source.rstrip())}</code></pre>"


def _text(text: str) -> str:
    return html.escape(text)


def _join(parts: Iterable[str]) -> str:
    return "".join(parts)
