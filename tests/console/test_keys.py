"""The page under keys: it asks for one, says what is wrong with another, and never lets it out."""

import dataclasses

import pytest
import pytest_asyncio

from gateway.access import Access, Permitted
from tests.console.conftest import serving
from tests.console.pages import drop, picture, says, until_counted

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def secret(keyring):
    return keyring.add("operator")


@pytest_asyncio.fixture(loop_scope="session")
async def guarded(rest_face, tritons, keyring, secret, predictor):  # noqa: ARG001 (the file must have it before it is read)
    """The address of a server that asks for keys."""
    core = dataclasses.replace(rest_face.core, predictor=Permitted(predictor), access=Access(keyring.path))
    async with serving(dataclasses.replace(rest_face, core=core, tritons=tritons)) as url:
        yield url


async def test_wrong_and_right_keys(guarded, open_page, secret):
    """The page loads without; a wrong key is said to be one, and with the right one everything works."""
    page = await open_page(guarded)
    await page.wait_for_selector("#key-dialog[open]")
    await page.fill("#key", "eagleeye_wrong")
    await page.keyboard.press("Enter")
    await says(page, "#key-error", "does not know this key")
    await page.fill("#key", "schlüssel")
    await page.keyboard.press("Enter")
    await says(page, "#key-error", "something else in it")
    addresses = []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("websocket", lambda socket: addresses.append(socket.url))
    await page.fill("#key", secret)
    await page.click("text=Use key")
    await page.wait_for_selector("#key-dialog", state="hidden")
    await drop(page, ("one.png", picture()))
    await until_counted(page, 2)
    await page.click("#copy-curl")
    assert "$EAGLEEYE_KEY" in await page.inner_text("#curl")
    await page.click("#camera")
    await says(page, "#notice", "pictures/s")
    await page.click("#camera")
    await page.click("text=Live")
    await page.wait_for_selector("#models tr")
    assert any(address.startswith("ws") for address in addresses)
    assert not any(secret in address or "eagleeye_" in address for address in addresses)
    assert secret not in await page.content()


async def test_live_goes_on_with_a_key_that_comes_late(guarded, open_page, secret):
    """Whoever has sent the first question away, and sets a key afterwards, sees Live at work."""
    page = await open_page(f"{guarded}#live")
    await page.wait_for_selector("#key-dialog[open]")
    await page.click("#key-cancel")
    await says(page, "#live-state", "a key is needed")
    await page.click("#key-button")
    await page.fill("#key", secret)
    await page.keyboard.press("Enter")
    await says(page, "#live-state", "Tritons serving")


async def test_a_key_lasts_as_long_as_its_tab(guarded, open_page, secret):
    """A reload does not ask again; forgetting it does, and another tab has to ask anyway."""
    page = await open_page(guarded)
    await page.fill("#key", secret)
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#key-dialog", state="hidden")
    await page.reload()
    await page.wait_for_function("() => document.querySelector('#model').options.length > 0")
    assert await page.is_hidden("#key-dialog")
    assert await page.inner_text("#key-button") == "Key set"
    other = await page.context.new_page()
    await other.goto(guarded)
    await other.wait_for_selector("#key-dialog[open]")
    await page.click("#key-button")
    await page.click("#forget")
    await page.wait_for_selector("#key-dialog[open]")


async def test_who_gives_no_key_is_told_what_is_lacking(guarded, open_page):
    """Cancelling is allowed; what needs the key says so."""
    page = await open_page(guarded)
    await page.wait_for_selector("#key-dialog[open]")
    await page.keyboard.press("Escape")
    await says(page, "#problem-models", "key is needed")
    assert await page.is_disabled("#model")
