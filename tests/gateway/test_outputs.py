"""What `/v1/detect` answers: the form that is asked for, as JSON, COCO's rows or an annotated picture."""

import base64
import io

import numpy as np
import orjson
import pytest
from PIL import Image
from pycocotools.coco import COCO

from gateway.annotate import draw_detections, encode_image
from gateway.image import decode
from gateway.rest import outputs
from gateway.rest.outputs import Format
from tests.gateway.conftest import LIMITS
from tests.gateway.test_image import scene
from tests.gateway.test_inputs import form, in_base64
from tests.gateway.test_rest import problem

URL = "/v1/detect"
WHO_AND_HOW_MUCH = {"X-Model-Name": "toy", "X-Model-Version": "3", "X-Detections": "2"}


@pytest.mark.parametrize(
    "accept, preferred",
    [
        ([], Format.JSON),
        (["*/*"], Format.JSON),
        (["image/jpeg"], Format.JPEG),
        (["IMAGE/JPEG"], Format.JPEG),
        (["image/*"], Format.JPEG),
        (["application/json, image/jpeg"], Format.JSON),
        (["image/jpeg, application/json;q=0.9"], Format.JPEG),
        (["image/jpeg;q=0.5, application/json;q=0.6"], Format.JSON),
        (["image/jpeg;q=0.5", "application/json;q=0.4"], Format.JPEG),
        (["image/jpeg, */*"], Format.JSON),
        (["image/jpeg, */*;q=0.1"], Format.JPEG),
        (["*/*, application/json;q=0.5"], Format.JPEG),
        (["image/*, image/jpeg;q=0"], Format.JSON),
        (["image/avif,image/webp,image/apng,image/*,*/*;q=0.8"], Format.JPEG),
        (["text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"], Format.JSON),
        (["image/jpeg;q=high"], Format.JSON),
        (["image/jpeg; version=1; q=0.1"], Format.JPEG),
        (["image/png"], Format.JSON),
        (["", ";", ",;q=,"], Format.JSON),
    ],
)
def test_accept_is_read_by_weight_and_by_how_specific_it_is(accept, preferred):
    """A picture comes only to who wants it more than JSON, and everything else is answered with JSON."""
    assert outputs.negotiate(accept) is preferred


@pytest.mark.parametrize(
    "query, accept, content_type",
    [
        ("", "image/jpeg", "image/jpeg"),
        ("?format=jpeg", "*/*", "image/jpeg"),
        ("?format=jpeg", "application/json", "image/jpeg"),
        ("?format=json", "image/jpeg", "application/json"),
        ("?format=coco", "image/jpeg", "application/json"),
        ("", "image/png", "application/json"),
    ],
)
async def test_a_format_wins_over_accept(rest, png, query, accept, content_type):
    """Both can ask for a picture."""
    response = await rest.post(URL + query, data=png, headers={"Accept": accept})
    assert (response.status, response.content_type) == (200, content_type)


async def test_the_picture_shows_what_was_found(rest, png):
    """It is the upload with the boxes drawn on it, as the drawing function and JPEG make it; headers tell the rest."""
    headers = {"Accept": "image/jpeg", "X-Request-Id": "mine"}
    response = await rest.post(URL, data=png, headers=headers)
    boxes = np.array([[0, 0, 48, 48], [48, 0, 96, 48]], np.float32)
    drawn = draw_detections(decode(png, LIMITS), boxes, ["cat", "dog"], np.array([0.9, 0.6], np.float32))
    assert await response.read() == encode_image(drawn, ".jpg")
    assert {name: response.headers[name] for name in WHO_AND_HOW_MUCH} == WHO_AND_HOW_MUCH
    assert response.headers["X-Request-Id"] == "mine"
    assert response.headers["Cache-Control"] == "no-store"


async def test_the_picture_is_upright(rest):
    """Boxes are in upright pixels, and so is what they are drawn on."""
    upload = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene(96, 48)).save(upload, "JPEG", exif=exif)
    picture = Image.open(io.BytesIO(await (await rest.post(f"{URL}?format=jpeg", data=upload.getvalue())).read()))
    assert picture.size == (48, 96)
    assert not picture.getexif()


async def test_an_error_is_no_picture(rest):
    """What can't be drawn is explained as ever."""
    response = await rest.post(f"{URL}?format=jpeg", data=b"text")
    assert (await problem(response))[:2] == (415, "unsupported_media_type")


@pytest.mark.parametrize("query, accept", [("?format=jpeg", "*/*"), ("", "image/jpeg")])
async def test_a_list_is_no_picture(rest, png, query, accept):
    """One answer can't be several pictures, even if the list holds one image."""
    for upload in ({"data": form(("a", "a", png), ("b", "b", png))}, {"json": {"images": [in_base64(png)]}}):
        response = await rest.post(URL + query, **upload, headers={"Accept": accept})
        status, code, detail = await problem(response)
        assert (status, code) == (400, "invalid_parameter")
        assert detail == "a list of images can't be answered as one picture; send one image, or ask for json"


async def test_a_form_with_one_file_can_be_a_picture(rest, png):
    """It is one image; the format may stand in the form."""
    response = await rest.post(URL, data=form(("a", "a.png", png), format="jpeg"))
    assert response.content_type == "image/jpeg"


@pytest.mark.parametrize("image_id", [0, 42])
async def test_coco_rows_are_what_cocos_tools_read(rest, png, tmp_path, image_id):
    """They load as results in pycocotools; boxes are x, y, width and height."""
    truth = tmp_path / "truth.json"
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    truth.write_bytes(orjson.dumps({"images": [{"id": image_id}], "categories": categories, "annotations": []}))
    query = f"?format=coco&image_id={image_id}" if image_id else "?format=coco"
    response = await rest.post(URL + query, data=png)
    rows = await response.json()
    assert rows == [
        {"image_id": image_id, "category_id": 0, "bbox": [0, 0, 48, 48], "score": 0.9, "label": "cat"},
        {"image_id": image_id, "category_id": 1, "bbox": [48, 0, 48, 48], "score": 0.6, "label": "dog"},
    ]
    assert COCO(truth).loadRes(rows).getAnnIds(imgIds=[image_id]) == [1, 2]
    assert {name: response.headers[name] for name in WHO_AND_HOW_MUCH} == WHO_AND_HOW_MUCH


async def test_coco_rows_of_a_list_count_on(rest, png):
    """Images follow one another from `image_id`, and the count is that of all."""
    response = await rest.post(URL, json={"images": [in_base64(png)] * 3, "format": "coco", "image_id": 7})
    assert [row["image_id"] for row in await response.json()] == [7, 7, 8, 8, 9, 9]
    assert response.headers["X-Detections"] == "6"


async def test_coco_rows_have_no_place_for_an_error(rest, png):
    """So the first image that fails is the answer's error, and named."""
    images = [in_base64(png), base64.b64encode(b"text").decode()]
    response = await rest.post(URL, json={"images": images, "format": "coco"})
    status, code, detail = await problem(response)
    assert (status, code) == (415, "unsupported_media_type")
    assert detail.startswith("image 1: the body is not an image")


async def test_nothing_found_is_an_answer(rest, png):
    """In every form."""
    coco = await rest.post(f"{URL}?format=coco&score_threshold=1", data=png)
    jpeg = await rest.post(f"{URL}?format=jpeg&score_threshold=1", data=png)
    assert await coco.json() == []
    assert (coco.headers["X-Detections"], jpeg.headers["X-Detections"]) == ("0", "0")
    assert await jpeg.read() == encode_image(decode(png, LIMITS), ".jpg")
