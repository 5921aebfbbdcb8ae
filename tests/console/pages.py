"""What the tests of the page do again and again."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

DROP = """([selector, files]) => {
  const transfer = new DataTransfer();
  for (const [name, type, text] of files) {
    const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type }));
  }
  const target = document.querySelector(selector);
  for (const kind of ["dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}"""
"""Files from outside of the browser: what Playwright has no gesture for."""


def picture(width=128, height=64, image_format="PNG"):
    """The bytes of a picture of one colour."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 200, np.uint8)).save(buffer, image_format)
    return buffer.getvalue()


async def drop(page, *files, selector="#empty"):
    """Drop `files`, (name, bytes), onto the page."""
    encoded = [[name, "", base64.b64encode(data).decode()] for name, data in files]
    await page.evaluate(DROP, [selector, encoded])


async def shown(page):
    """Label and score of each row of the list of detections."""
    return await page.eval_on_selector_all(
        "#found li", "rows => rows.map(row => [row.children[1].textContent, Number(row.children[2].textContent)])"
    )


async def until_counted(page, count):
    """Wait until the list has so many rows."""
    await page.wait_for_function("count => document.querySelectorAll('#found li').length === count", arg=count)


async def says(page, selector, text):
    """Wait until an element holds a text."""
    await page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.textContent.includes(text)", arg=[selector, text]
    )


async def download(page, button):
    """Name and bytes of the file that a button saves."""
    async with page.expect_download() as waiting:
        await page.click(button)
    started = await waiting.value
    return started.suggested_filename, Path(await started.path()).read_bytes()


async def slide(page, name, value):
    """Move a slider as a hand does: the value changes, and the page is told."""
    await page.eval_on_selector(
        f"#{name}", "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", str(value)
    )


def crowd(count, classes=2, seed=7, beyond=1.5):
    """Boxes (N, 4) in the fake model's pixels, scores (N,) and class ids (N,): many that overlap, or cross the border.

    So many pixels `beyond` it they begin; from 2 on, some lie outside altogether.
    """
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-beyond, [62, 30], (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(2, 10, (count, 2))])
    return boxes.astype(np.float32), rng.uniform(0.02, 0.98, count).astype(np.float32), rng.integers(0, classes, count)
