"""The evaluation: its figures against the reference, over HTTP and without, and everything that can go wrong."""

import asyncio
import copy
import json
import math
import signal
import subprocess
import sys

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from export.evaluate import coco_metrics, evaluate

MODEL = {"name": "deeppcb", "version": "3"}
BOX = {"x1": 10.0, "y1": 20.0, "x2": 50.0, "y2": 60.0}
TRUTH = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 80}],
    "categories": [{"id": 1, "name": "open"}, {"id": 2, "name": "short"}],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [10, 20, 40, 40], "area": 1600, "iscrowd": 0}],
}


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deeppcb(shared_dir):
    """The folder of the 60 images with the official code's detections and figures."""
    return shared_dir / "data" / "deeppcb"


@pytest.fixture(scope="module")
def reference(deeppcb):
    """The official code's figures."""
    return json.loads((deeppcb / "reference.json").read_text())["metrics"]


def test_metrics_equal_the_reference(deeppcb, reference):
    """The official detections give the official figures, for every class too."""
    annotations = json.loads((deeppcb / "annotations.json").read_text())
    results = json.loads((deeppcb / "detections_official.json").read_text())

    metrics = coco_metrics(annotations, results)

    mean = metrics.mean
    assert [mean.ap50_95, mean.ap50, mean.ap75] == pytest.approx(
        [reference[name] for name in ("mAP50_95", "mAP50", "mAP75")], abs=1e-6
    )
    assert {name: (figures.ap50, figures.ap50_95) for name, figures in metrics.per_class.items()} == {
        name: pytest.approx((figures["AP50"], figures["AP50_95"]), abs=1e-6)
        for name, figures in reference["per_class"].items()
    }


def result(**changes):
    """A COCO result that hits the one box of TRUTH exactly, but for the changes."""
    return {"image_id": 7, "category_id": 1, "bbox": [10, 20, 40, 40], "score": 0.9, **changes}


@pytest.mark.parametrize(
    "results,ap50",
    [
        pytest.param([], 0.0, id="no results"),
        pytest.param([result()], 1.0, id="a hit"),
        pytest.param([result(bbox=[60, 20, 30, 30])], 0.0, id="elsewhere"),
        pytest.param([result(category_id=2)], 0.0, id="another class"),
        pytest.param([result(), result(bbox=[60, 20, 30, 30], score=0.95)], 0.5, id="a surer miss"),
    ],
)
def test_metrics_of_small_cases(results, ap50):
    """Worked cases with one box, the empty one included; a class without ground truth has no figure."""
    metrics = coco_metrics(TRUTH, results)

    assert metrics.mean.ap50 == pytest.approx(ap50)
    assert metrics.per_class["open"].ap50 == pytest.approx(ap50)
    assert math.isnan(metrics.per_class["short"].ap50)


def test_metrics_leave_their_arguments_alone_and_say_nothing(capfd):
    """Neither the ground truth nor the results change, and pycocotools' chatter stays inside."""
    truth, results = copy.deepcopy(TRUTH), [result()]

    coco_metrics(truth, results)

    assert truth == TRUTH
    assert results == [result()]
    assert capfd.readouterr() == ("", "")


def test_results_of_an_unknown_image_are_refused():
    """A result that belongs nowhere would silently count as nothing."""
    with pytest.raises(ValueError, match="such as 8"):
        coco_metrics(TRUTH, [result(image_id=8)])


# --- over HTTP --------------------------------------------------------------------------------------------------------


class FakeGateway:
    """A gateway on a real socket: `answers` maps a body to a JSON answer, `failures` are sent first, one a request."""

    def __init__(self, answers=None, failures=(), labels=("open", "short")):
        self.answers = answers or {}
        self.failures = list(failures)
        self.labels = labels
        self.queries = []
        self.most_at_once = 0
        self.asked = asyncio.Event()
        self._at_once = 0

    def serve(self):
        """An async context manager: the running server."""
        app = web.Application()
        app.router.add_post("/v1/detect", self._detect)
        app.router.add_get("/v1/models/{name}", self._model)
        return TestServer(app)

    async def _detect(self, request):
        body = await request.read()
        self.queries.append(dict(request.query))
        self.asked.set()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0.01)
        self._at_once -= 1
        if self.failures:
            failure = self.failures.pop(0)
            return failure if isinstance(failure, web.Response) else await failure()
        return web.json_response(self.answers.get(body) or answer())

    async def _model(self, request):
        assert request.match_info["name"] == MODEL["name"]
        description = {
            "name": MODEL["name"],
            "versions": [MODEL["version"]],
            "input": {"width": 640, "height": 640},
            "labels": self.labels,
            "defaults": {"score_threshold": 0.4, "iou_threshold": 0.7},
            "facts": {},
        }
        return web.json_response(description)


def answer(*detections, width=100, height=80):
    """The gateway's answer about one image."""
    image = {"width": width, "height": height}
    return {"model": MODEL, "image": image, "detections": list(detections), "timing_ms": {}, "request_id": "1"}


def detection(**changes):
    """One detection that hits the box of TRUTH exactly, but for the changes."""
    return {"label": "open", "class_id": 0, "score": 0.9, "box": BOX, **changes}


def problem(status, code, detail, **headers):
    """An error as the gateway words it."""
    body = json.dumps({"type": "about:blank", "status": status, "code": code, "detail": detail})
    return web.Response(status=status, text=body, content_type="application/problem+json", headers=headers)


@pytest.fixture
def dataset(tmp_path):
    """A folder with one picture, named image, and TRUTH beside it: the options that select them."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"image")
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    return ["--images", tmp_path / "images", "--annotations", tmp_path / "truth.json"]


async def run(*arguments):
    """Runs the command in a thread of its own, as it brings its own event loop."""
    return await asyncio.to_thread(CliRunner().invoke, evaluate, [str(argument) for argument in arguments])


async def test_official_detections_over_http_give_the_official_figures(deeppcb, reference, tmp_path):
    """Replayed by a gateway, the official detections keep their mAP; all of it is in the table and the JSON file."""
    annotations = json.loads((deeppcb / "annotations.json").read_text())
    results = json.loads((deeppcb / "detections_official.json").read_text())
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    found = {image["id"]: [] for image in annotations["images"]}
    for one in results:
        x, y, width, height = one["bbox"]
        box = {"x1": x, "y1": y, "x2": x + width, "y2": y + height}
        found[one["image_id"]].append(detection(label=names[one["category_id"]], score=one["score"], box=box))
    answers = {
        (deeppcb / "images" / image["file_name"]).read_bytes(): answer(*found[image["id"]], width=640, height=640)
        for image in annotations["images"]
    }
    gateway, report = FakeGateway(answers, labels=list(names.values())), tmp_path / "report.json"

    async with gateway.serve() as server:
        options = ["--images", deeppcb / "images", "--annotations", deeppcb / "annotations.json", "--json", report]
        outcome = await run("--url", server.make_url(""), "--model", "deeppcb", *options)

    figures = json.loads(report.read_text())
    assert outcome.exit_code == 0, outcome.output
    assert figures["metrics"]["mAP50_95"] == pytest.approx(reference["mAP50_95"], abs=1e-6)
    assert figures["metrics"]["mAP50"] == pytest.approx(reference["mAP50"], abs=1e-6)
    assert figures["metrics"]["per_class"]["pin-hole"]["AP50"] == pytest.approx(
        reference["per_class"]["pin-hole"]["AP50"], abs=1e-6
    )
    assert (figures["model"], figures["images"], figures["detections"]) == (MODEL, 60, 11178)
    assert figures["warnings"] == []
    assert figures["images_per_second"] == pytest.approx(60 / figures["seconds"])
    assert outcome.output.splitlines()[-2].split() == ["all", "385", "0.5809", "0.8869", "0.6703"]
    assert outcome.output.splitlines()[-1].startswith("deeppcb/3: 60 images, 11178 detections, ")
    assert 1 < gateway.most_at_once <= 8
    query = {"model": "deeppcb", "score_threshold": "0.05", "iou_threshold": "0.7", "max_detections": "500"}
    assert [{name: text for name, text in each.items() if name != "timeout_ms"} for each in gateway.queries] == [
        query
    ] * 60
    assert list(tmp_path.iterdir()) == [report]


async def test_a_busy_gateway_is_asked_again(dataset):
    """One 503 is waited out as Retry-After says, and the evaluation is as if it had not been."""
    gateway = FakeGateway({b"image": answer(detection())}, [problem(503, "overloaded", "busy", **{"Retry-After": "0"})])

    async with gateway.serve() as server:
        outcome = await run("--url", server.make_url(""), *dataset)

    assert outcome.exit_code == 0, outcome.output
    assert len(gateway.queries) == 2
    assert outcome.output.splitlines()[-2].split() == ["all", "1", "1.0000", "1.0000", "1.0000"]


@pytest.mark.parametrize(
    "gateway,warning",
    [
        pytest.param(FakeGateway(labels=["open"]), "never answers these categories", id="a category nobody answers"),
        pytest.param(FakeGateway({b"image": answer(width=80, height=100)}), "another size", id="a turned picture"),
    ],
)
async def test_what_looks_wrong_is_warned_of(dataset, gateway, warning):
    """The figures stand, with a warning beside them."""
    async with gateway.serve() as server:
        outcome = await run("--url", server.make_url(""), *dataset)

    assert outcome.exit_code == 0
    assert outcome.stderr.startswith("Warning: ")
    assert warning in outcome.stderr


async def test_a_gateway_that_keeps_its_labels_to_itself_can_be_evaluated(dataset):
    """Labels only serve a warning; without them the figures stand alone."""
    async with FakeGateway({b"image": answer(detection())}, labels=None).serve() as server:
        outcome = await run("--url", server.make_url(""), *dataset)

    assert (outcome.exit_code, outcome.stderr) == (0, "")


async def hang():
    """Never answers."""
    await asyncio.sleep(60)


BUSY = problem(503, "triton_unavailable", "no Triton serves deeppcb", **{"Retry-After": "9"})


@pytest.mark.parametrize(
    "failures,reason",
    [
        pytest.param([problem(500, "internal", "it broke")], "a.jpg: internal: it broke", id="500"),
        pytest.param([BUSY], "triton_unavailable: no Triton serves deeppcb", id="503 for longer than the timeout"),
        pytest.param(
            [web.Response(status=404, text="<h1>Not\nFound</h1>")], "404: <h1>Not Found</h1>", id="another service"
        ),
        pytest.param([web.Response(text="hello")], "not JSON: hello", id="not JSON"),
        pytest.param([web.Response()], "not JSON: an empty body", id="empty"),
        pytest.param([web.json_response({"results": []})], "not a detection result", id="another JSON"),
        pytest.param(
            [web.json_response(answer(detection(score=float("nan"))))], "not a detection result", id="NaN score"
        ),
        pytest.param(
            [web.json_response(answer(detection(label="cat")))],
            "deeppcb/3 answers 'cat', but the annotations know only open, short",
            id="unknown label",
        ),
        pytest.param([hang], "did not answer within 2 s", id="silence"),
    ],
)
async def test_a_wrong_answer_ends_the_evaluation_with_one_line(dataset, tmp_path, failures, reason):
    """Exit code 1, one line that says what was wrong, and no report."""
    report = tmp_path / "report.json"

    async with FakeGateway(failures=failures).serve() as server:
        options = ["--url", server.make_url(""), "--timeout-seconds", 2, "--json", report]
        outcome = await run(*options, *dataset)

    assert_failed(outcome, reason)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "truth.json"]


def assert_failed(outcome, reason):
    """The command ended with exit code 1 and a single line."""
    assert outcome.exit_code == 1, outcome.output
    assert isinstance(outcome.exception, SystemExit)
    assert outcome.output.startswith("Error: ")
    assert outcome.output.count("\n") == 1
    assert reason in outcome.output


async def test_a_gateway_that_is_not_there_is_one_clear_line(dataset, unused_tcp_port):
    """A refused connection names the address."""
    url = f"http://127.0.0.1:{unused_tcp_port}"

    outcome = await run("--url", url, "--timeout-seconds", 2, *dataset)

    assert_failed(outcome, f"{url} cannot be reached")


async def test_answers_of_two_models_are_no_figure(dataset, tmp_path):
    """A model that is replaced during the evaluation makes it worthless."""
    truth = copy.deepcopy(TRUTH)
    truth["images"].append({"id": 8, "file_name": "b.jpg"})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "images" / "b.jpg").write_bytes(b"other")
    gateway = FakeGateway({b"other": {**answer(), "model": {"name": "deeppcb", "version": "4"}}})

    async with gateway.serve() as server:
        outcome = await run("--url", server.make_url(""), *dataset)

    assert_failed(outcome, "several models, so one figure says nothing: deeppcb/3, deeppcb/4")


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://host", "http://", "http://host:x"])
async def test_a_url_that_is_none_is_named(dataset, url):
    """An address without a scheme or host is refused before anything is read."""
    outcome = await run("--url", url, *dataset)

    assert (outcome.exit_code, outcome.output.count("\n")) == (2, 1)
    assert f"Error: '{url}' is no address of a gateway" in outcome.output


async def test_missing_images_are_named_before_anything_is_sent(dataset, tmp_path):
    """The gateway is not asked when the evaluation cannot be finished."""
    (tmp_path / "images" / "a.jpg").unlink()
    gateway = FakeGateway()

    async with gateway.serve() as server:
        outcome = await run("--url", server.make_url(""), *dataset)

    assert_failed(outcome, f"1 of 1 images are missing, the first is {tmp_path / 'images' / 'a.jpg'}")
    assert not gateway.queries


@pytest.mark.parametrize(
    "content,reason",
    [
        pytest.param(None, "cannot read", id="no file"),
        pytest.param("{", "is not a COCO file", id="not JSON"),
        pytest.param("[]", "is not a COCO file", id="a list"),
        pytest.param('{"images": []}', "is not a COCO file", id="parts missing"),
        pytest.param(json.dumps({**TRUTH, "images": []}), "lists 0 images", id="no images"),
        pytest.param(json.dumps({**TRUTH, "annotations": []}), "0 boxes", id="no boxes"),
        pytest.param(
            json.dumps({**TRUTH, "categories": [{"id": 1, "name": "open"}, {"id": 2, "name": "open"}]}),
            "gives one name to several categories",
            id="one name twice",
        ),
    ],
)
async def test_annotations_that_cannot_be_used_are_one_clear_line(dataset, tmp_path, content, reason):
    """A missing, broken, empty or ambiguous COCO file."""
    truth = tmp_path / "truth.json"
    truth.unlink() if content is None else truth.write_text(content)

    assert_failed(await run(*dataset), reason)


async def test_a_report_that_cannot_be_written_is_found_before_the_work(dataset, tmp_path):
    """A missing folder is not discovered after an hour."""
    report = tmp_path / "missing" / "report.json"

    assert_failed(await run("--json", report, *dataset), f"cannot write {report}: there is no folder")


async def test_ctrl_c_ends_the_evaluation_at_once(dataset):
    """SIGINT while the gateway keeps silent: exit code 1, no traceback."""
    program = "from export.evaluate import evaluate; evaluate()"
    gateway = FakeGateway(failures=[hang])

    async with gateway.serve() as server:
        arguments = [str(argument) for argument in ("-c", program, "--url", server.make_url(""), *dataset)]
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=subprocess.PIPE)
        await asyncio.wait_for(gateway.asked.wait(), 10)
        process.send_signal(signal.SIGINT)
        _, error = await asyncio.wait_for(process.communicate(), 10)

    assert (process.returncode, error.strip()) == (1, b"Aborted!")


def test_help_needs_no_heavy_package():
    """`--help` imports none of the packages that evaluation needs."""
    program = (
        "import sys; from export.evaluate import evaluate; evaluate(['--help'], standalone_mode=False);"
        "assert not {'aiohttp', 'pycocotools', 'numpy', 'tqdm', 'torch'} & set(sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=False).returncode == 0
