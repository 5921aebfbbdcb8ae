"""The API description: valid, complete, true; and a page that needs nothing else."""

import asyncio
import html.parser
import re
from dataclasses import replace

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.access import Access
from gateway.batch import MAX_IMAGES
from gateway.detector import Detector
from gateway.rest import detect
from gateway.rest.app import application
from gateway.rest.console import live, stream
from gateway.rest.console.page import PATHS as CONSOLE_PATHS
from gateway.rest.docs import STYLE_PATH
from gateway.rest.problems import HTTP_STATUS
from tests.conformance import hold_against_description
from tests.fakes import MODEL
from tests.gateway.conftest import LIMITS, admission

UNDESCRIBED = {*detect.PATHS[1:], STYLE_PATH, *CONSOLE_PATHS, live.PATH, stream.PATH}
"""Aliases, which the description of their route tells; what is no part of the API; and what OpenAPI has no words for, a
WebSocket and events without end, which stand in the description's text."""


@pytest.fixture
async def detector(predictor, metrics):
    """One that has room for the longest list of images, as the real one has."""
    async with Detector(predictor, LIMITS, admission(metrics, 2 * MAX_IMAGES), metrics, threads=2) as detector:
        yield detector


@pytest.fixture
async def document(rest):
    return await (await rest.get("/openapi.json")).json()


def operations(document):
    return [(path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()]


def responses(document):
    return [
        (path, status, response)
        for path, _, operation in operations(document)
        for status, response in operation["responses"].items()
    ]


async def test_the_document_is_valid_openapi(document):
    """By the rules of 3.1, the JSON Schemas in it included."""
    assert document["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


async def test_every_route_is_described_and_nothing_else(rest, document):
    """A route without a description does not pass, nor does a description without its route."""
    routes = {
        (route.resource.canonical, route.method)
        for route in rest.app.router.routes()
        if route.method not in {"HEAD", "OPTIONS"} and route.resource.canonical not in UNDESCRIBED
    }
    assert {(path, method.upper()) for path, method, _ in operations(document)} == routes


async def test_every_error_is_described(document):
    """Each error of the core has its meaning and an example under its status, unless only keys can bring it about."""
    described = {
        (code, int(status))
        for *_, status, response in responses(document)
        for code, meaning in re.findall(r"`(\w+)`: (.+)", response["description"])
        if response["content"]["application/problem+json"]["example"]["status"] == int(status)
    }
    expected = {(error.code, status) for error, status in HTTP_STATUS.items()}
    assert expected - described == {("unauthorized", 401), ("rate_limited", 429)}


async def test_every_example_is_what_its_schema_says(document):
    """A reader may rely on examples."""
    contents = [content for *_, response in responses(document) for content in response.get("content", {}).values()]
    for *_, operation in operations(document):
        contents += operation.get("requestBody", {}).get("content", {}).values()
    pairs = [(content["schema"], content["example"]) for content in contents if "example" in content]
    pairs += [
        (content["schema"], each["value"]) for content in contents for each in content.get("examples", {}).values()
    ]
    assert len(pairs) >= 10
    for schema, example in pairs:
        Draft202012Validator({**schema, "components": document["components"]}).validate(example)


async def test_examples_name_what_is_served(rest, predictor):
    """What a reader copies works with the models that are there, at the address that was used."""
    text = await (await rest.get("/openapi.json")).text()
    assert f"/v1/models/{MODEL.name}" in text
    assert str(rest.make_url("/v1/detect")) in text
    predictor.models = {}
    text = await (await rest.get("/openapi.json")).text()
    assert MODEL.name not in text


@pytest.mark.parametrize("host", ["a b", "x$(id)", "x'y", 'x"><script>', "x;y", "[::1", "x:123456"])
async def test_a_strange_host_is_not_repeated(rest, host):
    """Nobody copies a line that another has made up; an ordinary name is taken over."""
    for path in ("/openapi.json", "/docs"):
        assert "127.0.0.1:8080/v1/detect" in await (await rest.get(path, headers={"Host": host})).text()
        assert "eagle.example:80/v1/detect" in await (await rest.get(path, headers={"Host": "eagle.example:80"})).text()


class Page(html.parser.HTMLParser):
    """Collects what a page consists of, and stops at a tag that is not closed in its place."""

    VOID = frozenset({"link", "meta"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.text = [], set(), [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


async def test_the_page_shows_the_whole_document(rest, document):
    """Each operation with its lines of code, parameters and answers, and each schema with its fields."""
    response = await rest.get("/docs")
    assert (response.status, response.content_type) == (200, "text/html")
    page = Page()
    page.feed(await response.text())
    text = "".join(page.text)
    for path, method, operation in operations(document):
        assert f"{method.upper()}{path}" in text
        assert operation["summary"] in text
        for sample in operation["x-codeSamples"]:
            assert sample["source"].rstrip() in text
        for parameter in operation["parameters"]:
            assert parameter["name"] in text
    for name, schema in document["components"]["schemas"].items():
        assert name in page.ids
        assert all(field in text for field in schema.get("items", schema)["properties"])
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


async def test_the_page_needs_nothing_from_elsewhere(rest):
    """No script, no outside address; and its policy forbids both to whoever might slip one in."""
    response = await rest.get("/docs")
    policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == "'self'"
    assert "script-src" not in policy
    page = Page()
    page.feed(await response.text())
    assert not page.tags & {"script", "style", "img", "iframe", "object"}
    assert {link for link in page.links if not link.startswith("#")} == {"/docs/style.css", "/openapi.json"}
    style = await rest.get("/docs/style.css")
    assert (style.status, style.content_type) == (200, "text/css")
    assert not re.search(r"url\(|@import", await style.text())


async def test_names_are_text_on_the_page_and_in_a_shell(rest, predictor):
    """Whatever a model or a label is called, it is not HTML, and a line that is copied runs nothing else."""
    predictor.models = {"<b>$(id)": replace(MODEL, name="<b>$(id)", labels=('<script>"`id`',))}
    text = await (await rest.get("/docs")).text()
    assert "<b>$" not in text
    assert "<script" not in text
    document = await (await rest.get("/openapi.json")).json()
    for *_, operation in operations(document):
        for sample in operation["x-codeSamples"]:
            assert "$(id)" not in sample["source"]
            assert "`id`" not in sample["source"]


async def test_the_service_is_as_described(rest):
    """Generated requests, right and wrong ones: no server error, no answer that the description doesn't have."""
    report = await asyncio.to_thread(hold_against_description, str(rest.make_url("/")).rstrip("/"), max_examples=25)
    assert report.findings == {}
    assert report.requests >= 2000


@pytest.fixture
def secret(keyring):
    """A key that never runs into its limit, but has one to be told."""
    return keyring.add("one", rate=1000.0, burst=100_000, priority="high")


@pytest.fixture
async def guarded(rest_face, keyring, secret):  # noqa: ARG001 (the file must have it before it is read)
    """The address of a server that asks for keys."""
    app = application(replace(rest_face, core=replace(rest_face.core, access=Access(keyring.path))))
    async with TestServer(app, handler_cancellation=True) as server:
        yield str(server.make_url("/")).rstrip("/")


async def test_with_keys_the_service_is_as_described(guarded, secret):
    """Whoever has a key gets what is described, and whoever has none is refused as described."""
    report = await asyncio.to_thread(hold_against_description, guarded, max_examples=2, key=secret)
    assert report.findings == {}
    assert all(401 in statuses for operation, statuses in report.statuses.items() if "/v1/" in operation)


async def test_with_keys_the_description_needs_none_and_tells_no_model(guarded):
    """Everybody may read how a key is sent, and only who has one learns what is served."""
    async with aiohttp.ClientSession(guarded) as session:
        for path in ("/docs", "/openapi.json", "/docs/style.css"):
            response = await session.get(path)
            assert response.status == 200
            assert MODEL.name not in await response.text()
        document = await (await session.get("/openapi.json")).json()
    samples = [sample["source"] for *_, operation in operations(document) for sample in operation["x-codeSamples"]]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    assert {
        ("$KEY" in source or '["KEY"]' in source) for source in samples if "/v1/" in source or "/infer" in source
    } == {True}
    assert {("$KEY" in source or '["KEY"]' in source) for source in samples if "/readyz" in source} == {False}


async def test_probes_on_a_port_of_their_own_are_not_described(rest_face):
    """What is not here is not in the description."""
    async with TestClient(TestServer(application(replace(rest_face, has_admin_port=True)))) as client:
        document = await (await client.get("/openapi.json")).json()
    assert not {"/healthz", "/readyz", "/metrics"} & set(document["paths"])
