"""The Detect view: pictures in, thresholds that need no request, and what can be taken along."""

import asyncio
import dataclasses
import io
import json
import re
import subprocess

import aiohttp
import numpy as np
import pytest
from PIL import Image

from gateway.detections import RawPredictions
from gateway.errors import Overloaded
from tests.conftest import at_rest
from tests.console.pages import crowd, download, drop, picture, says, shown, slide, until_counted
from tests.fakes import MODEL

pytestmark = pytest.mark.asyncio(loop_scope="session")
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "\u202eesrever\u202c \u2066",
    "z" * 10_000,
    "</script><script>alert(1)</script>",
)


@pytest.fixture
def crowded(predictor):
    """Everything has 500 objects."""
    predictor.see(*crowd(500))


async def test_pictures_are_dropped_and_found_in(page):
    """Each gets an entry with its count; the first is shown with its list."""
    await drop(page, ("one.png", picture()), ("two.jpg", picture(64, 64, "JPEG")), ("notes.txt", b"no picture"))
    await until_counted(page, 2)
    assert await shown(page) == [["cat", 0.9], ["dog", 0.6]]
    assert "2 of 2 candidates" in await page.inner_text("#caption-0")
    assert await page.inner_text("#pictures-count") == "2 pictures"
    await page.wait_for_function(
        "() => [...document.querySelectorAll('#pictures .count')].every(e => e.textContent === '2 found')"
    )
    assert "1 of 3 files passed over" in await page.inner_text("#notice")


async def test_pictures_may_come_before_a_model(open_page, url, predictor):
    """They wait for it, and are asked about then."""
    served, predictor.models = predictor.models, {}
    page = await open_page(url)
    await says(page, "#notice", "No model is served")
    await drop(page, ("one.png", picture()))
    await page.wait_for_selector("#stage:visible")
    predictor.models = served
    await page.click("#reload-models")
    await until_counted(page, 2)


async def test_a_folder_is_picked(page, tmp_path):
    """With all pictures below it."""
    (tmp_path / "below").mkdir()
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "below" / "b.png").write_bytes(picture())
    await page.set_input_files("#folder", tmp_path)
    await page.wait_for_function("() => document.querySelectorAll('#pictures li').length === 2")


async def test_files_and_folders_are_dropped_from_the_desktop(page, tmp_path):
    """As the operating system hands them over, names alone: the page reads them, and what is in folders, too."""
    (tmp_path / "folder" / "below").mkdir(parents=True)
    names = ["a.png", "folder/b.png", "folder/below/c.png", "folder/notes.txt"]
    for name in names:
        (tmp_path / name).write_bytes(picture() if name.endswith("png") else b"no picture")
    paths = [str(tmp_path / "a.png"), str(tmp_path / "folder")]
    devtools = await page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": paths, "dragOperationsMask": 1}
        await devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 300, "data": data})
    await page.wait_for_function("() => document.querySelectorAll('#pictures li').length === 3")
    assert "1 of 4 files passed over" in await page.inner_text("#notice")


async def test_a_picture_is_pasted(page):
    """From the clipboard, as files come from it."""
    await page.evaluate(
        """async () => {
          const blob = await (await fetch("console/sample.png")).blob();
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([blob], "pasted.png", { type: "image/png" }));
          document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, cancelable: true }));
        }"""
    )
    await until_counted(page, 2)


async def test_what_the_gateway_refuses_is_told_and_can_be_tried_again(page, predictor):
    """A file that is no picture by its bytes, and a model that is away for a moment."""
    await drop(page, ("broken.png", b"no picture at all"))
    await page.wait_for_selector("#problem:visible")
    assert "JPEG, PNG, WebP and BMP are allowed" in await page.inner_text("#problem-text")
    predictor.error = RuntimeError
    await page.set_input_files("#files", {"name": "fine.png", "mimeType": "image/png", "buffer": picture()})
    await says(page, "#problem-text", "unexpected")
    predictor.error = None
    await page.click("#retry")
    await until_counted(page, 2)
    assert await page.is_hidden("#problem")


@pytest.mark.usefixtures("crowded")
async def test_sliders_and_classes_filter_as_the_gateway_does_and_ask_nothing(page, url, predictor):
    """One request; then for every pair of thresholds, and for one class, the page has the boxes of the gateway."""
    data = picture(128, 64)
    await drop(page, ("crowd.png", data))
    await page.wait_for_selector("#found li")
    asked = len(predictor.tensors)
    seen = {}
    pairs = [(score, iou) for score in (0.01, 0.25, 0.5, 0.9) for iou in (0, 0.3, 0.65, 1)]
    for score, iou in pairs:
        await slide(page, "score", score)
        await slide(page, "iou", iou)
        await page.evaluate("() => new Promise(requestAnimationFrame)")
        seen[score, iou] = await shown(page)
    await page.click("#classes li:nth-child(1) label")
    only_dogs = await shown(page)
    assert len(predictor.tensors) == asked
    assert len({len(rows) for rows in seen.values()}) > 8

    async def expected(http, query):
        async with http.post("/v1/detect?" + query, data=data) as response:
            return [[each["label"], round(each["score"], 3)] for each in (await response.json())["detections"]]

    async with aiohttp.ClientSession(url) as http:
        for score, iou in pairs:
            wanted = await expected(http, f"score_threshold={score}&iou_threshold={iou}")
            assert seen[score, iou] == [[label, pytest.approx(value, abs=0.0011)] for label, value in wanted]
        wanted = await expected(http, f"score_threshold={pairs[-1][0]}&iou_threshold={pairs[-1][1]}&classes=dog")
    assert only_dogs == [[label, pytest.approx(value, abs=0.0011)] for label, value in wanted] != []


async def test_suppression_equals_the_gateways_to_the_bit(page, url, predictor):
    """Which boxes stay, of crowds in a picture whose size no scale divides evenly."""
    data = picture(997, 491)
    async with aiohttp.ClientSession(url) as http:

        async def answer(score, iou, more=""):
            query = f"score_threshold={score}&iou_threshold={iou}"
            async with http.post(f"/v1/detect?{query}{more}", data=data) as response:
                return await response.json()

        for seed in range(3):
            predictor.see(*crowd(400, seed=seed, beyond=8))
            candidates = await answer(0.01, 1, "&max_detections=1000&clip=false")
            assert len(candidates["detections"]) > 380  # those that score more
            for score, iou in [(0.02, 0.1), (0.05, 0.02), (0.3, 0.45), (0.3, 0.7), (0.6, 0.9)]:
                kept = await page.evaluate(
                    """async ([candidates, score, iouThreshold]) => {
                      const { filter, fromAnswer } = await import("/console/boxes.js");
                      return filter(fromAnswer(candidates), { score, iouThreshold }).map(({ box }) => box);
                    }""",
                    [candidates, score, iou],
                )
                boxes = [list(each["box"].values()) for each in (await answer(score, iou))["detections"]]
                assert np.array_equal(np.array(kept, np.float32), np.array(boxes, np.float32))
                assert len(kept) > 10


@pytest.mark.usefixtures("crowded")
async def test_five_hundred_boxes_stay_usable(page):
    """The list has them all, keys walk it, and a slider is followed."""
    await drop(page, ("crowd.png", picture()))
    await page.wait_for_selector("#found li")
    await slide(page, "score", 0.01)
    await slide(page, "iou", 1)
    await until_counted(page, 500)
    await page.focus("#found")
    await page.keyboard.press("End")
    assert await page.get_attribute("#found", "aria-activedescendant") == "found-499"
    await page.keyboard.press("PageUp")
    assert await page.get_attribute("#found", "aria-activedescendant") == "found-489"
    for value in range(1, 99):
        await slide(page, "score", value / 100)
    await page.wait_for_function("() => document.querySelectorAll('#found li').length < 50")


async def test_a_box_is_clicked_and_tells_its_numbers(page):
    """Where it is drawn, also when zoomed, and a click beside all boxes lets go of it."""
    predictor_boxes = {"cat": (0.25, 0.5), "dog": (0.75, 0.5)}
    await drop(page, ("one.png", picture(128, 64)))
    await until_counted(page, 2)
    canvas = await page.locator("#canvas-0").bounding_box()
    for zooms in (0, 1):
        for _ in range(zooms):
            await page.click("#zoom-in")
        for label, (x, y) in predictor_boxes.items():
            offset = 0.5 + (x - 0.5) * 1.5**zooms * 0.9
            await page.mouse.click(canvas["x"] + canvas["width"] * offset, canvas["y"] + canvas["height"] * y)
            assert label in await page.inner_text("#selected")
    assert "32.0" in await page.inner_text("#selected") or "64.0" in await page.inner_text("#selected")
    await page.keyboard.press("Escape")
    assert await page.is_hidden("#selected")


async def test_the_picture_is_as_sharp_as_the_screen(open_page, url):
    """The canvas has a pixel for each of the screen's, and after zooming a box's edge is no blur."""
    page = await open_page(url, device_scale_factor=2)
    await drop(page, ("one.png", picture(128, 64)))
    await until_counted(page, 2)
    await page.focus("#canvas-0")
    for _ in range(8):
        await page.keyboard.press("+")
    await page.evaluate("() => new Promise(requestAnimationFrame)")
    sizes = await page.eval_on_selector("#canvas-0", "c => [c.width, c.clientWidth, c.height, c.clientHeight]")
    assert (sizes[0], sizes[2]) == (2 * sizes[1], 2 * sizes[3])


async def test_tags_stay_in_sight(page):
    """Above a box, else below it, else in it; moved to where they fit at a side. A box out of sight has none."""
    tags = await page.evaluate(
        """async (boxes) => {
          const { drawBoxes } = await import("/console/viewer.js");
          const tags = [];
          const fillRect = (...tag) => tags.push(tag);
          const context = { strokeRect() {}, fillText() {}, measureText: () => ({ width: 20 }), fillRect };
          const found = boxes.map((box) => ({ box, label: "a", score: 0.5 }));
          drawBoxes(context, found, { size: [100, 80], line: 2, tagHeight: 10 });
          return tags.reverse();
        }""",
        [[40, 40, 60, 60], [40, 4, 60, 20], [40, -9, 60, 90], [90, 40, 99, 60], [-30, 40, 20, 60], [-30, 40, -1, 60]],
    )
    assert tags == [[39, 29, 26, 10], [39, 21, 26, 10], [39, 1, 26, 10], [74, 29, 26, 10], [0, 29, 26, 10]]


async def test_keys_alone_are_enough(open_page, url):
    """From the first Tab to a found box, its numbers, thresholds, classes and the other views."""
    page = await open_page(url)

    async def tab_to(element):
        for _ in range(40):
            if await page.evaluate("document.activeElement.id") == element:
                return
            await page.keyboard.press("Tab")
        pytest.fail(f"Tab does not reach {element}")

    await tab_to("skip")
    await page.keyboard.press("Enter")
    await tab_to("try-sample")
    await page.keyboard.press("Enter")
    await until_counted(page, 2)
    await tab_to("canvas-0")
    for key in ("+", "ArrowRight", "ArrowDown", "-", "0", "n"):
        await page.keyboard.press(key)
    assert "cat" in await page.inner_text("#selected")
    await tab_to("score")
    for _ in range(15):
        await page.keyboard.press("ArrowRight")
    await until_counted(page, 1)
    await page.keyboard.press("Home")
    await until_counted(page, 2)
    await tab_to("classes")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Space")
    await until_counted(page, 1)
    await tab_to("found")
    await page.keyboard.press("ArrowDown")
    assert "dog" in await page.inner_text("#selected")
    await says(page, "#detect-status", "dog")
    await page.evaluate("document.activeElement.blur()")
    for _ in range(3):
        await page.keyboard.press("Tab")
    focused = await page.evaluate(
        "document.activeElement.textContent + getComputedStyle(document.activeElement).outlineStyle"
    )
    assert "solid" in focused


async def test_what_the_gateway_puts_off_is_asked_again(page, predictor):
    """When it says, and without a word from the user."""
    predictor.error = Overloaded("busy", 1)
    await drop(page, ("one.png", picture()))
    async with asyncio.timeout(30):
        while not predictor.tensors:
            await asyncio.sleep(0.01)
    predictor.error = None
    await until_counted(page, 2)


async def test_two_versions_stand_side_by_side(page, predictor):
    """Each with its own answer, moving together; the list is that of the side one looks at."""
    box, score, class_id = np.array([[8, 8, 24, 24]], np.float32), np.array([0.8], np.float32), np.array([1], np.int32)
    predictor.seen_by[1] = RawPredictions(box, score, class_id)
    await drop(page, ("one.png", picture()))
    await until_counted(page, 2)
    await page.select_option("#model", label="toy, version 3")
    await page.select_option("#compare", label="toy, version 1")
    await says(page, "#caption-1", "1 of 1")
    captions = [await page.inner_text(f"#caption-{side}") for side in (0, 1)]
    assert [caption.split(":")[0] for caption in captions] == ["toy v3", "toy v1"]
    assert await page.locator("canvas:visible").count() == 2
    assert await shown(page) == [["cat", 0.9], ["dog", 0.6]]
    await page.focus("#canvas-1")
    assert await shown(page) == [["dog", 0.8]]
    before = await pixels(page, "#canvas-0")
    await page.keyboard.press("+")
    await page.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    assert await pixels(page, "#canvas-0") != before


async def pixels(page, canvas):
    return await page.eval_on_selector(canvas, "canvas => canvas.toDataURL()")


async def test_results_are_taken_along_as_the_gateway_writes_them(page, url):
    """JSON, COCO rows and the annotated picture, with the thresholds and classes that are set."""
    data = picture(128, 64)
    await drop(page, ("my board.png", data))
    await until_counted(page, 2)
    await slide(page, "score", 0.7)
    await until_counted(page, 1)
    async with aiohttp.ClientSession(url) as http:
        async with http.post("/v1/detect?score_threshold=0.7", data=data) as response:
            expected = await response.json()
        async with http.post("/v1/detect?score_threshold=0.7&format=coco", data=data) as response:
            rows = await response.json()
    name, content = await download(page, "#save-json")
    (result,) = json.loads(content)["results"]
    assert (name, result["file"]) == ("my_board.found.json", "my board.png")
    assert {key: expected[key] for key in ("model", "image", "detections")} == {
        key: result[key] for key in expected if key in result
    }
    name, content = await download(page, "#save-coco")
    assert (name, json.loads(content)) == ("my_board.found.coco.json", rows)
    name, content = await download(page, "#save-picture")
    drawn = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert (name, drawn.shape) == ("my_board.found.png", (64, 128, 3))
    assert (drawn[:, :64] != 200).any()


async def test_the_curl_line_runs_and_answers_what_is_seen(page, tmp_path):
    """As it was copied, with thresholds and classes, whatever a file is called."""
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    name = 'it\'s $(touch x) "a" `b`.png'
    (tmp_path / name).write_bytes(picture())
    await page.set_input_files("#files", tmp_path / name)
    await until_counted(page, 2)
    await page.click("#classes li:nth-child(1) label")
    await until_counted(page, 1)
    await page.click("#copy-curl")
    await says(page, "#notice", "copied")
    line = await page.evaluate("navigator.clipboard.readText()")
    assert line == await page.text_content("#curl")
    done = await asyncio.to_thread(
        subprocess.run, ["sh", "-c", f"{line} -s"], cwd=tmp_path, capture_output=True, check=True
    )
    assert [each["label"] for each in json.loads(done.stdout)["detections"]] == ["dog"]
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("label", HOSTILE, ids=["markup", "direction", "endless", "script"])
async def test_hostile_names_are_text(open_page, url, predictor, label):
    """Labels, model names and file names do nothing, break no layout, and stay what they are."""
    hostile = dataclasses.replace(MODEL, name=label[:200], labels=(label, "dog"), facts={"variant": label[:500]})
    predictor.models = {hostile.name: hostile}
    predictor.find = lambda *_: (hostile, 3)
    page = await open_page(url, viewport={"width": 390, "height": 800})
    await drop(page, (f"{label[:150].replace('/', '_')}.png", picture()), ("second.png", picture()))
    await until_counted(page, 2)
    assert (await page.text_content("#found li .name")) == label
    await page.click("#found li")
    assert label in await page.text_content("#selected")
    name, _ = await download(page, "#save-json")
    assert re.fullmatch(r"[\w-]+\.json", name)
    assert await page.evaluate("document.querySelectorAll('img[src=x], main script').length") == 0
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.click("text=Live")
    await page.wait_for_selector("#models tr")
    assert (await page.text_content("#models th")) == hostile.name
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_the_camera_is_watched(page, predictor):
    """Frames of the browser's fake camera, with boxes, for as long as it is on; then it is let go of.

    A double click starts one camera: a second one could not be stopped.
    """
    await page.evaluate("() => { for (const _ of [1, 2]) document.querySelector('#camera').click(); }")
    await until_counted(page, 2)
    await says(page, "#notice", "pictures/s")
    seen = len(predictor.tensors)
    async with asyncio.timeout(30):
        while len(predictor.tensors) < seen + 5:
            await asyncio.sleep(0.02)
    await slide(page, "score", 0.7)
    await until_counted(page, 1)
    await page.click("#camera")
    await page.wait_for_selector("#empty:visible")
    await at_rest(lambda: len(predictor.tensors))


async def test_the_camera_goes_on_after_a_restart_of_the_stream(page, lifecycle):
    """A stream that drains is opened anew; what the gateway refuses is told meanwhile."""
    await page.click("#camera")
    await until_counted(page, 2)
    lifecycle.drain()
    await says(page, "#notice", "trying again")
    lifecycle.is_draining = False
    await says(page, "#notice", "pictures/s")


async def test_no_camera_is_explained(open_page, url):
    """In words that say what to do."""
    page = await open_page(url)
    await page.evaluate(
        """() => {
          navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("x", "NotAllowedError"));
        }"""
    )
    await page.click("#camera")
    await says(page, "#notice", "was told not to")
