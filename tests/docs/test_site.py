"""The site that `make docs` builds, from the pages and the code as they are."""

import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import expect

import eagleeye.client
from docs.generate import markdown, settings, site
from eagleeye.cli import COMMANDS
from gateway.settings import Settings
from tests.conftest import REPOSITORY
from tests.console.conftest import browser  # noqa: F401 (a fixture)
from triton_runtime.up import UpSettings

SECONDS = 120
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "embed": "src",
    "object": "data",
}
"""What a browser fetches for a tag, without being asked; a `link` it fetches but for these relations."""
FOLLOWED = {"canonical", "next", "prev", "alternate"}


class Page(HTMLParser):
    """One built page: its text, its ids, where its links go, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.path, self.ids, self.links, self.loads, self.words = path, set(), [], [], []
        self.feed(path.read_text())
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.words += [" "] * (tag == "br")
        self.ids |= {attrs.get("id"), attrs.get("name") if tag == "a" else None}
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        if tag in LOADED and LOADED[tag] in attrs:
            self.loads.append(attrs[LOADED[tag]])
        if tag == "link" and attrs["rel"] not in FOLLOWED:
            self.loads.append(attrs["href"])
        self.loads += re.findall(r"url\(['\"]?([^'\")]+)", attrs.get("style") or "")
        self.loads += [each.split()[0] for each in (attrs.get("srcset") or "").split(",") if each.strip()]

    def handle_endtag(self, tag):
        if tag in {"div", "h1", "h2", "h3", "p", "pre", "td", "th"}:
            self.words.append(" ")

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The site, built once."""
    target = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "docs.generate", str(target)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="session")
def pages(folder):
    """Its pages by their path within it; the page for what is not found has no place of its own."""
    found = {str(path.relative_to(folder)): Page(path) for path in folder.rglob("*.html") if path.name != "404.html"}
    assert len(found) > 25
    return found


def test_every_page_is_in_the_site(pages):
    """Those of docs/, and each is in the navigation of the front page."""
    names = {f"docs/{path.stem}.html" for path in (REPOSITORY / "docs").glob("*.md")}
    assert names <= set(pages)
    assert names <= {link.removeprefix("./") for link in pages["index.html"].links}


def test_every_link_leads_somewhere(pages, folder):
    """Files, pages and anchors of the site are there; the strict build sees neither pictures nor generated parts."""
    lost = []
    for page in pages.values():
        for link in (*page.links, *page.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            place = str(target.relative_to(folder))
            if not target.is_file() or (parts.fragment and place in pages and parts.fragment not in pages[place].ids):
                lost.append((str(page.path.relative_to(folder)), link))
    assert not lost, "\n".join(map(str, lost))


def test_nothing_is_loaded_from_elsewhere(pages, folder):
    """Scripts, styles, fonts and pictures are the site's own."""
    loaded = [link for page in pages.values() for link in page.loads]
    for style in folder.rglob("*.css"):
        loaded += re.findall(r"(?:url\(|@import )['\"]?([^'\")]+)", style.read_text())
    assert len(loaded) > 100
    assert [link for link in loaded if re.match(r"(https?:)?//", link)] == []


def test_the_architecture_is_drawn(pages):
    """As a picture with a text alternative, and in words."""
    concepts = pages["docs/concepts.html"]
    (picture,) = [link for link in concepts.loads if "architecture" in link]
    drawn = (concepts.path.parent / picture).resolve().read_text()
    assert "<title" in drawn
    assert "<desc" in drawn
    assert re.search(r'<img alt="Callers above, gateways below them', concepts.path.read_text())
    assert "The picture in words." in concepts.text


def test_the_settings_are_those_of_the_code(pages):
    """Each has its flag, variable, default and help; and there are no others."""
    text = pages["docs/settings.html"].text
    fields = {field.name: field for cls in (UpSettings, Settings) for field in dataclasses.fields(cls)}
    for field in fields.values():
        row = f"--{field.name.replace('_', '-')} EAGLEEYE_{field.name.upper()} "
        assert row in text
        assert " ".join([settings.default(field), field.metadata["help"]]).replace("`", "").strip() in text
    assert set(re.findall(r"(--[a-z-]+) EAGLEEYE_", text)) == {f"--{name.replace('_', '-')}" for name in fields}


def test_the_commands_are_all_there(pages):
    """And below a group its own."""
    text = pages["docs/reference-commands.html"].text
    assert all(f"Usage: eagleeye {name} " in text or name in {"gateway", "up"} for name in COMMANDS)
    assert "Usage: eagleeye model promote " in text
    assert "Usage: eagleeye key add " in text


def test_the_client_is_all_there(pages):
    """Every public name has a section, its methods have, and arguments have types and meanings."""
    page = pages["docs/reference-python.html"]
    assert {name.lower() for name in eagleeye.client.__all__} <= page.ids
    assert {"clientdetect_many", "asyncclientstream", "detectionsto_supervision"} <= page.ids
    assert "score_threshold float | None detections score more than this, 0 to 1" in page.text


def test_the_rest_interface_is_all_there(pages):
    """Operations with code to copy, and records that answers are made of."""
    page = pages["docs/reference-rest.html"]
    assert {"POST /v1/detect", "GET /v1/models", "GET /readyz"} <= set(re.findall(r"(?:GET|POST) /[\w/]+", page.text))
    assert 'curl --data-binary @picture.jpg "http://127.0.0.1:8080/v1/detect?model=my_model"' in page.text
    assert "application/problem+json" in page.text


def test_a_broken_link_fails(monkeypatch, tmp_path, capfd):
    """The old site stays, and the message says where the fault is."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "site.toml").write_text('[project]\nsite_name = "x"\ndocs_dir = "pages"\nsite_dir = "site"\n')
    (tmp_path / "docs" / "one.md").write_text("# One\n\n[two](two.md)\n")
    (tmp_path / "site").mkdir()
    monkeypatch.setattr(site, "REPOSITORY", tmp_path)
    monkeypatch.setattr(site, "_PLACES", ("docs",))
    assert not site.build(tmp_path / "site")
    assert (tmp_path / "site").exists()
    assert "one.md" in "".join(capfd.readouterr())


def test_a_bar_in_a_cell_is_escaped():
    """Once, and not within code: elsewhere it would begin another column."""
    rows = [("x | y\nz",), (r"x \| y",), ("`x | y` | z",)]
    assert markdown.table(("a",), rows).splitlines()[2:] == [r"| x \| y z |", r"| x \| y |", r"| `x | y` \| z |"]


@pytest.mark.asyncio(loop_scope="session")
async def test_the_search_finds(browser, folder):  # noqa: F811
    """Where the site is served, a word leads to its page."""
    served = web.Application()
    served.router.add_static("/", folder)
    async with TestServer(served) as server:
        page = await browser.new_page()
        await page.goto(str(server.make_url("/index.html")))
        await page.get_by_role("button", name="Search").first.click()
        await page.keyboard.type("EAGLEEYE_HEDGE_QUANTILE")
        await expect(page.get_by_role("option").first).to_contain_text("Settings")
        await page.close()


@pytest.mark.asyncio(loop_scope="session")
async def test_a_browser_reads_it_from_a_disk(browser, folder):  # noqa: F811
    """On a phone too: it asks nobody else for anything, has no error, and nothing reaches beyond the screen."""
    asked, errors = [], []
    context = await browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page = await context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for name in ("index.html", "docs/concepts.html", "docs/reference-rest.html"):
        await page.goto((folder / name).as_uri())
        await expect(page.locator("h1")).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    await context.close()
    assert errors == []
    assert {urlsplit(url).scheme for url in asked} <= {"file", "data", "blob"}
