"""What `/v1/detect` takes: raw bytes, forms and JSON, whole or broken, sent fast, slowly or compressed."""

import asyncio
import base64
import gzip
import json
import tracemalloc
import zlib

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch import MAX_IMAGES
from gateway.errors import ImageTooLarge, InvalidParameter
from gateway.rest import body as uploads
from gateway.rest import inputs
from tests.gateway.conftest import LIMITS, MAX_BODY_BYTES, MAX_INFLIGHT
from tests.gateway.test_rest import problem

URL = "/v1/detect"
FORM = "multipart/form-data; boundary=B"
JSON = {"Content-Type": "application/json"}


def in_base64(data):
    return base64.b64encode(data).decode()


def form(*files, **fields):
    """A form with files under (field, file name, bytes), and fields that are not files."""
    data = aiohttp.FormData(quote_fields=False)  # as browsers do it
    for name, filename, content in files:
        data.add_field(name, content, filename=filename)
    for name, text in fields.items():
        data.add_field(name, text)
    return data


async def labels(response):
    assert response.status == 200, await response.text()
    return [detection["label"] for detection in (await response.json())["detections"]]


@pytest.mark.parametrize(
    "content_type", ["image/png", "image/jpeg", "application/octet-stream", "application/json", FORM, "nonsense", ""]
)
async def test_the_bytes_decide_what_is_an_image(rest, png, content_type):
    """An image is taken as one whatever content type it is declared to have, an envelope's as well."""
    assert await labels(await rest.post(URL, data=png, headers={"Content-Type": content_type})) == ["cat", "dog"]


async def test_an_image_needs_no_content_type(rest, png):
    """None at all is as good as any."""
    response = await rest.post(URL, data=png, skip_auto_headers=["Content-Type"])
    assert await labels(response) == ["cat", "dog"]


@pytest.mark.parametrize("path", ["/v1/detect", "/detect", "/api/detect"])
@pytest.mark.parametrize("field", ["file", "image", "x"])
async def test_a_form_with_one_file_answers_as_its_image_alone(rest, png, path, field):
    """Any field name does, on the route and its aliases, and the other fields are parameters."""
    response = await rest.post(path, data=form((field, "a.png", png), score_threshold="0.7", version="1"))
    body = await response.json()
    assert body["model"] == {"name": "toy", "version": "1"}
    assert [detection["label"] for detection in body["detections"]] == ["cat"]


async def test_a_form_with_several_files_answers_in_their_order(rest, png):
    """Each has its result or its own error, and its file name; a bad image does not spoil the rest."""
    files = [("a", "first.png", png), ("a", "zwölf \u732b.txt", b"text"), ("b", "last.png", png)]
    response = await rest.post(URL, data=form(*files), headers={"X-Request-Id": "mine"})
    body = await response.json()
    first, second, third = body["results"]
    assert (response.status, body["request_id"]) == (200, "mine")
    assert [each["file"] for each in body["results"]] == ["first.png", "zwölf \u732b.txt", "last.png"]
    assert [len(each["detections"]) for each in (first, third)] == [2, 2]
    assert second["error"] == {
        "type": "about:blank",
        "title": "Unsupported Media Type",
        "status": 415,
        "code": "unsupported_media_type",
        "detail": "the body is not an image that can be read; JPEG, PNG, WebP and BMP are allowed",
    }


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:;base64,", "data:text/plain;x=y;base64,"])
async def test_json_carries_an_image_in_base64(rest, png, prefix):
    """Plain or as a data URL, whose media type is not asked; parameters are JSON values."""
    content = {"image": prefix + in_base64(png), "score_threshold": 0.7, "max_detections": 5, "classes": ["cat", 1]}
    assert await labels(await rest.post(URL, json=content)) == ["cat"]


async def test_json_with_a_list_of_images_answers_a_list(rest, png):
    """Even one image in a list is answered in one; there are no file names."""
    images = [in_base64(png), in_base64(b"text")]
    answers = (await (await rest.post(URL, json={"images": images})).json())["results"]
    (alone,) = (await (await rest.post(URL, json={"images": images[:1]})).json())["results"]
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, "unsupported_media_type"]
    assert set(alone) == {"model", "image", "detections", "timing_ms"}


async def test_the_images_of_a_list_are_worked_on_at_the_same_time(rest, predictor, png):
    """All of them are with the predictor before any is answered."""
    predictor.go.clear()
    request = asyncio.create_task(rest.post(URL, json={"images": [in_base64(png)] * MAX_INFLIGHT}))
    async with asyncio.timeout(30):
        while len(predictor.tensors) < MAX_INFLIGHT:
            await asyncio.sleep(0.005)
    predictor.go.set()
    assert len((await (await request).json())["results"]) == MAX_INFLIGHT


async def test_each_image_of_a_list_needs_a_place_in_the_gateway(rest, predictor, png):
    """Images for which there is no place, and none to wait in, are refused one by one; the others are answered."""
    predictor.go.clear()
    request = asyncio.create_task(rest.post(URL, json={"images": [in_base64(png)] * (MAX_INFLIGHT + 3)}))
    async with asyncio.timeout(30):
        while len(predictor.tensors) < MAX_INFLIGHT:
            await asyncio.sleep(0.005)
    predictor.go.set()
    answers = (await (await request).json())["results"]
    assert [answer.get("error", {}).get("code") for answer in answers] == [None] * (MAX_INFLIGHT + 1) + [
        "overloaded"
    ] * 2


async def test_a_client_that_leaves_cancels_all_its_images(rest, predictor, png):
    """No image of a list outlives its request."""
    predictor.go.clear()
    request = asyncio.create_task(rest.post(URL, json={"images": [in_base64(png)] * 3}))
    async with asyncio.timeout(30):
        while len(predictor.tensors) < 3:
            await asyncio.sleep(0.005)
        request.cancel()
        while predictor.cancelled < 3:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "parameters, code, says",
    [
        ({"model": "other"}, "model_not_found", "'other'"),
        ({"version": 77}, "model_not_found", "77"),
        ({"classes": ["cow"]}, "invalid_parameter", "cat, dog"),
        ({"timeout_ms": 0}, "invalid_parameter", "1 to 600000"),
    ],
)
async def test_what_concerns_the_whole_list_is_the_answers_error(rest, png, parameters, code, says):
    """A list whose request is wrong has no results at all."""
    response = await rest.post(URL, json={"images": [in_base64(png)] * 2, **parameters})
    assert (await problem(response))[1] == code
    assert says in (await response.json())["detail"]


async def test_the_error_of_a_single_image_is_the_answers_error(rest):
    """In an envelope or not."""
    for data in (form(("file", "a.png", b"text")), json.dumps({"image": in_base64(b"text")}).encode()):
        headers = JSON if isinstance(data, bytes) else {}
        response = await rest.post(URL, data=data, headers=headers)
        assert (await problem(response))[:2] == (415, "unsupported_media_type")


@pytest.mark.parametrize("name, value", [("score_threshold", 0.7), ("classes", "cat"), ("model", "toy")])
async def test_a_parameter_has_one_place(rest, png, name, value):
    """Named in the query string and in the body it is refused, even with the same value."""
    for data in (form(("file", "a.png", png), **{name: str(value)}), json.dumps({"image": "", name: value}).encode()):
        headers = JSON if isinstance(data, bytes) else {}
        status, code, detail = await problem(await rest.post(f"{URL}?{name}={value}", data=data, headers=headers))
        assert (status, code) == (400, "invalid_parameter")
        assert detail == f"{name} is given both in the query string and in the body"


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"image": NaN}', "not JSON"),
        (b"[]", "one of `image`"),
        (b'"text"', "one of `image`"),
        (b"{}", "one of `image`"),
        (b'{"image": "", "images": []}', "one of `image`"),
        (b'{"images": []}', "1 to 32 images"),
        (b'{"images": {}}', "1 to 32 images"),
        (b'{"images": [' + b'"",' * MAX_IMAGES + b'""]}', "1 to 32 images"),
        (b"[" + b"0," * 20_000 + b"0]", "more than 10,000 values"),
        (b'{"image": 5}', "image is not base64"),
        (b'{"image": null}', "image is not base64"),
        (b'{"image": "QQ"}', "image is not base64"),
        (b'{"image": "QQ==\\n"}', "without line breaks"),
        (b'{"image": "Q-__"}', "image is not base64"),
        (b'{"image": "\xc3\xa4"}', "image is not base64"),
        (b'{"image": "data:image/png,QQ=="}', "image is not base64"),
        (b'{"image": "data:image/png;base64"}', "image is not base64"),
        (b'{"images": ["QQ==", "?"]}', "images[1] is not base64"),
        (b'{"image": "", "treshold": null}', "there is no parameter 'treshold'"),
        (b'{"image": "", "score_threshold": "0.5"}', "score_threshold must be a number, not a text"),
        (b'{"image": "", "score_threshold": true}', "between 0 and 1"),
        (b'{"image": "", "score_threshold": 1e308}', "between 0 and 1"),
        (b'{"image": "", "max_detections": 1.5}', "whole number"),
        (b'{"image": "", "max_detections": null}', "max_detections must be a whole number, not null"),
        (b'{"image": "", "agnostic_nms": "true"}', "agnostic_nms must be true or false, not a text"),
        (b'{"image": "", "agnostic_nms": 1}', "true or false"),
        (b'{"image": "", "model": ["toy"]}', "model must be a text, not a list"),
        (b'{"image": "", "version": {}}', "version must be a text, not an object"),
        (b'{"image": "", "classes": []}', "ids or labels"),
        (b'{"image": "", "classes": ["cat", null]}', "ids or labels"),
        (b'{"image": "", "classes": ["cat,dog"]}', "a label with a comma is named by its id"),
        (b'{"image": "", "classes": "' + b"1" * 5000 + b'"}', "ids 0 to 1"),
        (b'{"image": "", "classes": "' + b"1" * 10_001 + b'"}', "classes has more than 10,000 characters"),
    ],
)
async def test_malformed_json_is_explained(rest, content, says):
    """400 with what is wrong; nothing of it is guessed."""
    status, code, detail = await problem(await rest.post(URL, data=content, headers=JSON))
    assert (status, code) == (400, "invalid_parameter")
    assert says in detail


def part(content, disposition='form-data; name="file"; filename="a.png"', more=b""):
    return b"\r\n--B\r\nContent-Disposition: " + disposition.encode() + b"\r\n" + more + b"\r\n" + content


@pytest.mark.parametrize(
    "content_type, body, says",
    [
        ("multipart/form-data", b"", "must name its boundary"),
        ('multipart/form-data; boundary=""', b"", "must name its boundary"),
        (FORM, b"", "malformed"),
        (FORM, b"text", "malformed"),
        (FORM, b"--C\r\n\r\n--C--", "between the boundaries that the content type names"),
        (FORM, b"--B--", "0 files"),
        (FORM, part(b"x") + b"\r\n--Bx--", "malformed"),
        (FORM, part(b"x") + b"\r\n--B\r\n--B--", "malformed"),
        (FORM, part(b"x"), "malformed (Unexpected end of multipart stream"),
        (FORM, part(b"x") + b"\r\n--B", "malformed (Unexpected end of multipart stream"),
        (FORM, b"--B\r\nno headers\r\n--B--", "malformed"),
        (
            FORM,
            part(b"x", more=b"X-Long: " + b"x" * 5000 + b"\r\n") + b"\r\n--B--",
            "malformed (Maximum segment header length exceeded)",
        ),
        (FORM, part(b"x", "form-data") + part(b"x") + b"\r\n--B--", "there is no parameter ''"),
        (FORM, part(b"x", "attachment; filename=x") + b"\r\n--B--", "each with a name"),
        (FORM, part(b"0.5", 'form-data; name="score_threshold"') * 2 + part(b"x") + b"\r\n--B--", "more than once"),
        (FORM, part(b"x", 'form-data; name="treshold"') + part(b"x") + b"\r\n--B--", "no parameter 'treshold'"),
        (FORM, part(b"\xff", 'form-data; name="classes"') + b"\r\n--B--", "not UTF-8; give an image a file name"),
        (FORM, part(b"x" * 10_001, 'form-data; name="classes"') + b"\r\n--B--", "more than 10,000 characters"),
        (FORM, part(b"x") * (MAX_IMAGES + 1) + b"\r\n--B--", "33 files; it must have 1 to 32"),
        (FORM, part(b"x") * 100 + b"\r\n--B--", "up to 64 parts"),
    ],
)
async def test_a_malformed_form_is_explained(rest, content_type, body, says):
    """400 with what is wrong."""
    response = await rest.post(URL, data=body, headers={"Content-Type": content_type})
    status, code, detail = await problem(response)
    assert (status, code) == (400, "invalid_parameter")
    assert says in detail


def test_a_form_may_have_a_preamble_and_an_epilogue():
    """As RFC 2046 allows; what stands in them counts for nothing. Contents are kept to the byte."""
    content = b"\r\n--\r\n--A\r\n\r\n"
    upload = inputs.unpack(FORM, b"preamble" + part(content) + b"\r\n--B--\r\nepilogue")
    assert upload == inputs.Upload((inputs.File(content, "a.png"),))


@pytest.mark.parametrize(
    "disposition, name",
    [
        ('form-data; name=f; filename="caf\u00e9.png"', "caf\u00e9.png"),
        ('form-data; name=f; filename=""', ""),
    ],
)
def test_file_names_can_be_sent_back(disposition, name):
    """As browsers write them, in UTF-8."""
    (file,) = inputs.unpack(FORM, part(b"x", disposition) + b"\r\n--B--").files
    assert file.name == name


def test_a_part_with_a_content_type_other_than_text_is_a_file():
    """Some clients send bytes without a file name."""
    body = part(b"x", "form-data; name=image", b"Content-Type: image/png\r\n") + part(b"1", "form-data; name=version")
    assert inputs.unpack(FORM, body + b"\r\n--B--") == inputs.Upload((inputs.File(b"x"),), parameters={"version": "1"})


PIECES = st.sampled_from(
    [
        *(
            b"\r\n--B",
            b"--B",
            b"--",
            b"\r\n",
            b"\r\n\r\n",
            b"Content-Type: ",
            b"Content-Disposition: form-data",
            b"; name=",
        ),
        *(
            b"; filename*0*=",
            b"; filename*=",
            b"utf-8''%ff",
            b"x",
            b"\xff",
            b":",
            b";",
            b"=",
            b"'",
            b'"',
            b"\x00",
            b"%",
        ),
    ]
)


@given(st.one_of(st.lists(PIECES).map(b"".join), st.lists(PIECES).map(lambda each: part(b"x", more=b"".join(each)))))
def test_no_form_breaks_the_parser(body):
    """Whatever comes: files, or the one error that explains."""
    try:
        upload = inputs.unpack(FORM, body + b"\r\n--B--")
    except InvalidParameter:
        return
    assert 1 <= len(upload.files) <= MAX_IMAGES
    assert json.dumps([file.name for file in upload.files], ensure_ascii=False).encode()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)
NAMES = st.sampled_from(["image", "images", "classes", "score_threshold", "version", "model", "format", "image_id"])


@given(st.dictionaries(NAMES, JSON_VALUES))
def test_no_json_breaks_the_parser(content):
    """Whatever comes: files and texts, or the one error that explains."""
    try:
        upload = inputs.unpack("application/json", json.dumps(content).encode())
    except InvalidParameter:
        return
    assert all(isinstance(text, str) for text in upload.parameters.values())


@pytest.mark.parametrize(
    "content_type, cap",
    [("image/png", LIMITS.max_bytes), (JSON["Content-Type"], MAX_BODY_BYTES), (FORM, MAX_BODY_BYTES)],
)
async def test_a_body_over_the_cap_is_refused_while_it_arrives(rest, content_type, cap):
    """An endless upload gets its refusal before it ends, and envelopes have a cap of their own."""

    async def endless():
        while True:
            yield bytes(10_000)
            await asyncio.sleep(0)

    async with asyncio.timeout(30):
        response = await rest.post(URL, data=endless(), headers={"Content-Type": content_type})
        status, code, detail = await problem(response)
    assert (status, code) == (413, "image_too_large")
    assert f"{cap:,} bytes" in detail


async def test_a_file_over_the_images_cap_does_not_spoil_the_rest(rest, png):
    """The form as a whole is small enough, one of its files is not."""
    response = await rest.post(URL, data=form(("a", "a.png", png), ("b", "b.png", png + bytes(LIMITS.max_bytes))))
    good, bad = (await response.json())["results"]
    assert len(good["detections"]) == 2
    assert bad["error"]["code"] == "image_too_large"


@pytest.mark.parametrize("pause", [None, 0.05])
async def test_an_upload_that_takes_too_long_is_cut_off(rest, pause):
    """Whether it stalls or trickles: what counts is the time in all."""
    reader, writer = await asyncio.open_connection(rest.host, rest.port)
    writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")

    async def trickle():
        while pause:
            writer.write(b"x")
            await asyncio.sleep(pause)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        trickling = group.create_task(trickle())
        head = await reader.readuntil(b"\r\n\r\n")
        trickling.cancel()
    writer.transport.abort()
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head.lower()


async def exchange(rest, head, body=b""):
    """Sends a request by hand, and returns whatever the server says until it pauses for the body or closes."""
    reader, writer = await asyncio.open_connection(rest.host, rest.port)
    writer.write(head.replace(b"\n", b"\r\n"))
    async with asyncio.timeout(30):
        first = await reader.readuntil(b"\r\n\r\n")
        if b" 100 " in first:
            writer.write(body)
            first += await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    return first


async def test_a_client_that_asks_whether_to_go_on_is_told(rest, png):
    """`100 Continue` comes once, and then the answer."""
    head = b"POST /v1/detect HTTP/1.1\nHost: x\nExpect: 100-continue\nContent-Length: %d\n\n" % len(png)
    said = await exchange(rest, head, png)
    assert said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"connection: close" not in said.lower()


@pytest.mark.parametrize(
    "target, length, status",
    [("", 100_001, 413), ("?model=other", 10, 404), ("?score_threshold=2", 10, 400), ("?classes=cow", 10, 400)],
)
async def test_what_can_be_refused_without_the_body_is(rest, target, length, status):
    """The final answer comes instead of `100 Continue`, and ends the connection: nobody knows what would come next."""
    head = f"POST /v1/detect{target} HTTP/1.1\nHost: x\nExpect: 100-continue\nContent-Length: {length}\n\n"
    said = await exchange(rest, head.encode())
    assert said.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close" in said.lower()


@pytest.mark.parametrize(
    "coding, compress",
    [("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)],
)
async def test_a_compressed_body_is_inflated(rest, png, coding, compress):
    """Images and envelopes alike."""
    for data, headers in ((png, {}), (json.dumps({"image": in_base64(png)}).encode(), JSON)):
        response = await rest.post(URL, data=compress(data), headers={"Content-Encoding": coding, **headers})
        assert await labels(response) == ["cat", "dog"]


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "nonsense"])
async def test_an_unknown_content_encoding_is_named(rest, png, coding):
    """415, with what is allowed."""
    status, code, detail = await problem(await rest.post(URL, data=png, headers={"Content-Encoding": coding}))
    assert (status, code) == (415, "unsupported_media_type")
    assert detail == f"the content encoding {coding!r} is not known; allowed: gzip, deflate"


@pytest.mark.parametrize(
    "body, says",
    [
        (b"", "cut short"),
        (b"not compressed", "not gzip, as its Content-Encoding says"),
        (gzip.compress(b"x" * 100)[:-9], "cut short"),
        (gzip.compress(b"x") + b"more", "goes on after its gzip data"),
        (gzip.compress(b"x" * 1000)[:-8] + bytes(8), "not gzip"),
    ],
    ids=["empty", "plain", "truncated", "trailing", "wrong checksum"],
)
async def test_a_broken_compressed_body_is_explained(rest, body, says):
    """400, before anybody looks for an image in it."""
    status, code, detail = await problem(await rest.post(URL, data=body, headers={"Content-Encoding": "gzip"}))
    assert (status, code) == (400, "invalid_parameter")
    assert says in detail


async def test_a_bomb_is_refused_while_it_is_inflated(rest):
    """A thousandfold gzip stream without end is answered once its output passes the cap, and never inflated further."""
    packer = zlib.compressobj(9, wbits=31)
    sent = []

    async def bomb():
        while True:
            sent.append(len(chunk := packer.compress(bytes(1_000_000))))
            yield chunk
            await asyncio.sleep(0)

    async with asyncio.timeout(30):
        response = await rest.post(URL, data=bomb(), headers={"Content-Encoding": "gzip"})
        assert (await problem(response))[:2] == (413, "image_too_large")
    assert sum(sent) < 50_000


async def test_a_bomb_of_one_chunk_takes_no_memory():
    """Inflating stops at the cap, within a chunk too."""
    loop = asyncio.get_running_loop()
    content = aiohttp.StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    content.feed_data(zlib.compress(bytes(50_000_000)))
    content.feed_eof()
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLarge):
            await uploads._inflated(content, "deflate", 1000, lambda _: None)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "head, body",
    [
        (b"Transfer-Encoding: chunked", b"5\r\nhello\r\nnonsense\r\n"),
        (b"Content-Length: 100", b"the client leaves"),
    ],
)
async def test_a_body_that_breaks_off_is_no_defect(rest, metrics, head, body):
    """A broken framing or a client that leaves in mid-upload is never counted as an internal error."""
    reader, writer = await asyncio.open_connection(rest.host, rest.port)
    writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + body)
    writer.write_eof()
    async with asyncio.timeout(30):
        said = await reader.read()
    writer.close()
    assert b" 500 " not in said
    assert (await rest.get("/healthz")).status == 200
    labels = {"face": "rest", "model": "toy", "code": "internal"}
    assert metrics.registry.get_sample_value("eagleeye_requests_total", labels) is None


@pytest.mark.parametrize(
    "target, headers, body, code",
    [
        ("", {}, b"text", "unsupported_media_type"),
        ("", {}, bytes(100_001), "image_too_large"),
        ("?score_threshold=2", {}, b"x", "invalid_parameter"),
        ("?treshold=2", {}, b"x", "invalid_parameter"),
        ("?model=toy&version=77", {}, b"x", "model_not_found"),
        ("?model=toy", JSON, b"{", "invalid_parameter"),
        ("", JSON, b'{"image": "", "score_threshold": 2}', "invalid_parameter"),
        ("", JSON, b'{"image": "", "model": "toy"}', "invalid_image"),
    ],
)
async def test_an_error_counts_for_its_model(rest, metrics, target, headers, body, code):
    """As soon as it is known which served model is asked, metrics name it, whatever goes wrong then."""
    assert (await problem(await rest.post(URL + target, data=body, headers=headers)))[1] == code
    labels = {"face": "rest", "model": "toy", "code": code}
    assert metrics.registry.get_sample_value("eagleeye_requests_total", labels) == 1


async def test_agnostic_nms_lets_the_better_class_win(rest, predictor, png):
    """Two classes on one box stay two detections, unless NMS works across classes."""
    predictor.boxes[1] = predictor.boxes[0]
    assert await labels(await rest.post(URL, data=png)) == ["cat", "dog"]
    assert await labels(await rest.post(f"{URL}?agnostic_nms=true", data=png)) == ["cat"]
    assert await labels(await rest.post(f"{URL}?agnostic_nms=false", data=png)) == ["cat", "dog"]
    assert await labels(await rest.post(URL, json={"image": in_base64(png), "agnostic_nms": True})) == ["cat"]


async def test_boxes_are_given_as_they_are_where_clipping_is_not_wanted(rest, predictor, png):
    """Also outside of the image; asked for in the query, in a form or in JSON. A picture is drawn all the same."""
    predictor.boxes = [[-8, -4, 32, 32], [70, 0, 90, 32]]
    form = aiohttp.FormData({"clip": "false"}, quote_fields=False)
    form.add_field("image", png, filename="a.png")
    found = [
        [list(each["box"].values()) for each in (await (await rest.post(url, **body)).json())["detections"]]
        for url, body in [
            (URL, {"data": png}),
            (f"{URL}?clip=true", {"data": png}),
            (f"{URL}?clip=false", {"data": png}),
            (URL, {"json": {"image": in_base64(png), "clip": False}}),
            (URL, {"data": form}),
        ]
    ]
    assert found == [[[0, 0, 48, 48]]] * 2 + [[[-12, -6, 48, 48], [105, 0, 135, 48]]] * 3
    assert (await rest.post(f"{URL}?clip=false&format=jpeg", data=png)).content_type == "image/jpeg"
