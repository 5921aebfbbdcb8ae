"""The console in a real Chromium, in front of the real core and faces over a fake predictor.

One browser serves the whole session, so it, the tests and what they talk to share the session's event loop.
"""

import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import async_playwright

from gateway.detector import Detector
from gateway.rest.app import application
from gateway.shadow import Shadowing
from tests.conftest import missing
from tests.fakes import FakePredictor
from tests.gateway.conftest import (  # noqa: F401 (fixtures)
    LIMITS,
    admission,
    admitting,
    clock,
    core,
    frames_read,
    hold,
    keyring,
    lifecycle,
    metrics,
    png,
    rest_face,
    versions,
)

ARGUMENTS = (
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
WIDE = {"width": 1280, "height": 900}
VIOLATIONS = "document.addEventListener('securitypolicyviolation', (e) => console.error(`CSP: ${e.violatedDirective}`))"
REFUSED = "Failed to load resource: the server responded with a status of"


class Predictor(FakePredictor):
    """Sees in everything what a test says: boxes in model pixels with scores and class ids."""

    def __init__(self):
        super().__init__()
        self.seen_by = {}  # what a version sees, if it is something else

    async def predict(self, model, version, tensor, deadline, *, is_replaceable=False):
        found = await super().predict(model, version, tensor, deadline, is_replaceable=is_replaceable)
        return self.seen_by.get(version, found)

    def see(self, boxes, scores, class_ids):
        order = np.argsort(-np.asarray(scores), kind="stable")
        self.boxes, self.scores, self.class_ids = (
            np.asarray(values)[order].tolist() for values in (boxes, scores, class_ids)
        )


class Tritons:
    """What the feed asks: two endpoints, whose state a test may set."""

    def __init__(self):
        self.states = {"triton-0:8001": "serving", "triton-1:8001": "serving"}
        self.totals = {address: [0, 0, 0.0] for address in self.states}
        self.asked = 0

    def describe(self):
        return {
            "endpoints": [
                {
                    "endpoint": address,
                    "state": state,
                    "reason": None if state == "serving" else "the connection broke",
                    "models": {"toy": ["1", "3"]} if state == "serving" else {},
                    "outstanding": 3,
                    "share": 1.0,
                    "latency_ms": 12.5,
                    "ejections": 0,
                }
                for address, state in self.states.items()
            ]
        }

    async def statistics(self):
        self.asked += 1
        for totals in self.totals.values():
            totals[:] = totals[0] + 40, totals[1] + 10, totals[2] + 0.2
        names = ("inferences", "executions", "queue_seconds")
        return {address: dict(zip(names, totals, strict=True)) for address, totals in self.totals.items()}

    async def gpu_use(self):
        return {"triton-0:8001": 0.375, "triton-1:8001": None}


@pytest.fixture
def predictor():
    return Predictor()


@pytest.fixture
def tritons():
    return Tritons()


@pytest_asyncio.fixture(loop_scope="session")
async def shadowing(predictor, versions, admitting, metrics):  # noqa: F811
    async with Shadowing(predictor, versions, admitting, metrics, head_start_seconds=0) as shadowing:
        yield shadowing


@pytest_asyncio.fixture(loop_scope="session")
async def detector(predictor, admitting, shadowing, metrics):  # noqa: F811
    async with Detector(predictor, LIMITS, admitting, metrics, threads=2, shadowing=shadowing) as detector:
        yield detector


@asynccontextmanager
async def serving(face):
    """The address of a server with that face."""
    server = TestServer(application(face))
    await server.start_server(shutdown_timeout=0.1)  # viewers would be waited for
    yield str(server.make_url("/"))
    await server.close()


@pytest_asyncio.fixture(loop_scope="session")
async def url(rest_face, tritons):  # noqa: F811
    async with serving(replace(rest_face, tritons=tritons)) as url:
        yield url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser():
    """Debian's Chromium."""
    executable = shutil.which("chromium")
    if executable is None:
        missing("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        await browser.close()


@dataclass
class Complaints:
    """What the browser has to say against a page: errors of scripts, and violations of its policy."""

    texts: list[str] = field(default_factory=list)

    def listen(self, page):
        page.on("console", lambda message: message.type == "error" and self.texts.append(message.text))
        page.on("pageerror", lambda error: self.texts.append(str(error)))

    def check(self):
        assert [text for text in self.texts if not text.startswith(REFUSED)] == []


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser, url):  # noqa: ARG001 (pages close before what they watch)
    """Opens pages in a fresh profile; at the end none of them may have had an error."""
    contexts, complaints = [], Complaints()

    async def open_page(url, **options):
        context = await browser.new_context(**{"viewport": WIDE, "accept_downloads": True, **options})
        contexts.append(context)
        await context.add_init_script(VIOLATIONS)
        page = await context.new_page()
        page.set_default_timeout(30_000)
        complaints.listen(page)
        await page.goto(url)
        return page

    yield open_page
    for context in contexts:
        await context.close()
    complaints.check()


@pytest_asyncio.fixture(loop_scope="session")
async def page(open_page, url):
    """The console, at the Detect view, when it knows the models: what is done by scripts does not wait for them."""
    page = await open_page(url)
    await page.wait_for_selector("#camera:enabled")
    return page
