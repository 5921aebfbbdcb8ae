"""COCO mAP of what a live gateway answers: the whole way from image bytes to boxes is measured, as users meet it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import click

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    import aiohttp

EXTRA: Final = ("aiohttp", "pycocotools", "tqdm")
"""What only evaluation needs. Imported where it is used, so that `--help` answers at once and without any of it."""
OK: Final = 200
UNAVAILABLE: Final = 503
DEFAULT_RETRY_SECONDS: Final = 1.0
LONGEST_RETRY_SECONDS: Final = 10.0
"""A gateway that asks for more patience than this has not got the time of an evaluation."""
EXCERPT_CHARACTERS: Final = 120


class EvaluationFailed(click.ClickException):
    """No figure can be given; the message is one line for the user."""


# --- metrics ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's average precision in [0, 1] over IoU 0.5 to 0.95, at 0.5 and at 0.75; NaN without ground truth."""

    ap50_95: float
    ap50: float
    ap75: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """The means over all classes, and each class of the ground truth by its name."""

    mean: AveragePrecision
    per_class: dict[str, AveragePrecision]


def coco_metrics(annotations: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Metrics:
    """What pycocotools' COCOeval finds with its default settings (boxes, at most 100 detections per class and image).

    Args:
        annotations: A COCO data set: `images`, `categories`, `annotations`.
        results: COCO results: `image_id`, `category_id`, `bbox` (x, y, width, height) in pixels, `score`. May be empty.

    Returns:
        The metrics; the arguments are left as they are.

    Raises:
        ValueError: A result belongs to an image that is not in `annotations`.
    """
    from pycocotools.cocoeval import COCOeval  # noqa: PLC0415 (see EXTRA)

    unknown = {result["image_id"] for result in results} - {image["id"] for image in annotations["images"]}
    if unknown:
        raise ValueError(f"results of {len(unknown)} images that the annotations do not know, such as {min(unknown)}")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _coco_index(annotations, annotations["annotations"])
        evaluation = COCOeval(truth, _coco_index(annotations, results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # (IoU thresholds, recalls, categories, object sizes, detection limits): all sizes, the largest limit
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    per_class = {
        names[category_id]: _average(precision[:, :, [position]])
        for position, category_id in enumerate(evaluation.params.catIds)
    }
    return Metrics(_average(precision), per_class)


def _coco_index(annotations: Mapping[str, Any], boxes: Sequence[Mapping[str, Any]]) -> Any:
    """A pycocotools COCO object of the data set's images and these boxes, which are copied."""
    from pycocotools.coco import COCO  # noqa: PLC0415 (see EXTRA)

    coco = COCO()
    defaults = (
        {"id": number, "iscrowd": 0, "area": box["bbox"][2] * box["bbox"][3]} for number, box in enumerate(boxes, 1)
    )
    coco.dataset = {
        **annotations,
        "annotations": [{**default, **box} for default, box in zip(defaults, boxes, strict=True)],
    }
    coco.createIndex()
    return coco


def _average(precision: Any) -> AveragePrecision:
    """The average precision of a (10, R, C) array in which -1 marks a class without ground truth."""
    picks = (precision, precision[0], precision[5])
    return AveragePrecision(*(float(pick[pick > -1].mean()) if (pick > -1).any() else math.nan for pick in picks))


# --- the gateway as its client sees it --------------------------------------------------------------------------------


class Query(NamedTuple):
    """The parameters of one detection request; None leaves a choice to the gateway."""

    model: str | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None

    def parameters(self) -> dict[str, str]:
        """The parameters that were chosen, as the URL wants them."""
        return {name: str(value) for name, value in self._asdict().items() if value is not None}


class Detection(NamedTuple):
    """One detected object; `xyxy` in pixels of the image that was sent."""

    label: str
    score: float
    xyxy: tuple[float, float, float, float]


class Answer(NamedTuple):
    """What the gateway says about one image; `model` is `name/version`."""

    model: str
    image_wh: tuple[int, int]
    detections: list[Detection]


def parse_answer(body: bytes) -> Answer:
    """One image's JSON answer.

    Raises:
        EvaluationFailed: It is something else.
    """
    try:
        answer = json.loads(body)
        model, image = answer["model"], answer["image"]
        detections = [_parse_detection(detection) for detection in answer["detections"]]
        return Answer(f"{model['name']}/{model['version']}", (int(image["width"]), int(image["height"])), detections)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise EvaluationFailed(f"the gateway's answer is not a detection result: {_excerpt(body)}") from error


def _parse_detection(detection: Mapping[str, Any]) -> Detection:
    box = detection["box"]
    values = [float(value) for value in (detection["score"], box["x1"], box["y1"], box["x2"], box["y2"])]
    if not all(map(math.isfinite, values)):
        raise ValueError("a number of the answer is not finite")
    score, x1, y1, x2, y2 = values
    return Detection(str(detection["label"]), score, (x1, y1, x2, y2))


def _excerpt(body: bytes) -> str:
    """The start of a body as one printable line."""
    text = " ".join(body[: 4 * EXCERPT_CHARACTERS].decode(errors="replace").split())
    return (text[:EXCERPT_CHARACTERS] + "..." if len(text) > EXCERPT_CHARACTERS else text) or "an empty body"


class Gateway:
    """A gateway's REST face over one HTTP session. Every failure is an EvaluationFailed of one line."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url.rstrip("/")
        self._session = session

    async def detect(self, data: bytes, query: Query) -> Answer:
        """What is on one encoded image; a gateway that is busy for a moment (503) is asked once more."""
        response = await self._request("POST", "/v1/detect", query.parameters(), data)
        if response.status == UNAVAILABLE:
            await asyncio.sleep(_retry_seconds(response.headers))
            response = await self._request("POST", "/v1/detect", query.parameters(), data)
        if response.status != OK:
            raise EvaluationFailed(f"the gateway answered {_problem(response)}")
        return parse_answer(response.body)

    async def labels(self, model: str) -> list[str] | None:
        """The labels that a model can answer, or None if the gateway does not say."""
        try:
            response = await self._request("GET", f"/v1/models/{quote(model, safe='')}", {})
            return [str(label) for label in json.loads(response.body)["labels"]] if response.status == OK else None
        except (EvaluationFailed, ValueError, KeyError, TypeError):  # no reason to lose what was measured
            return None

    async def _request(
        self, method: str, path: str, parameters: Mapping[str, str], data: bytes | None = None
    ) -> Response:
        import aiohttp  # noqa: PLC0415 (see EXTRA)

        try:
            async with self._session.request(method, self._url + path, params=parameters, data=data) as response:
                return Response(response.status, response.headers, await response.read())
        except TimeoutError as error:
            seconds = self._session.timeout.total
            raise EvaluationFailed(f"the gateway at {self._url} did not answer within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise EvaluationFailed(f"the gateway at {self._url} cannot be reached: {error}") from error


class Response(NamedTuple):
    """A whole HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def _retry_seconds(headers: Mapping[str, str]) -> float:
    """How long to wait after a 503: as the gateway says, within limits."""
    try:
        return min(max(0.0, float(headers["Retry-After"])), LONGEST_RETRY_SECONDS)
    except (KeyError, ValueError):  # absent, or a date, which our gateway never sends
        return DEFAULT_RETRY_SECONDS


def _problem(response: Response) -> str:
    """Status, code and detail of a problem+json body, or the start of whatever the body is."""
    try:
        problem = json.loads(response.body)
        return f"{response.status} {problem['code']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{response.status}: {_excerpt(response.body)}"


@contextlib.asynccontextmanager
async def connect(url: str, timeout_seconds: float) -> AsyncIterator[Gateway]:
    """A gateway client; no request of it outlives `timeout_seconds`."""
    import aiohttp  # noqa: PLC0415 (see EXTRA)

    # Requests are as many as their senders: a limit here would only let a queue eat up a request's time.
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(timeout_seconds)) as session:
        yield Gateway(url, session)


# --- the evaluation ---------------------------------------------------------------------------------------------------


class Picture(NamedTuple):
    """One image of the data set; `wh` is None where the data set does not give its size."""

    id: int
    path: Path
    wh: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """The ground truth: the COCO file as it is, its pictures, and its categories' ids by name."""

    annotations: dict[str, Any]
    pictures: list[Picture]
    category_ids: dict[str, int]


def read_dataset(annotations: Path, images: Path) -> Dataset:
    """Reads a COCO file whose pictures lie in the folder `images`.

    Raises:
        EvaluationFailed: A file is missing, or the COCO file is none.
    """
    try:
        content = json.loads(annotations.read_bytes())
        pictures = [_picture(image, images) for image in content["images"]]
        category_ids = {category["name"]: category["id"] for category in content["categories"]}
        count = len([box["bbox"][3] for box in content["annotations"]])
    except OSError as error:
        raise EvaluationFailed(f"cannot read {annotations}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise EvaluationFailed(f"{annotations} is not a COCO file: {error!r}") from error
    if not pictures or not count:
        raise EvaluationFailed(f"{annotations} lists {len(pictures)} images and {count} boxes: nothing to compare with")
    if len(category_ids) < len(content["categories"]):
        raise EvaluationFailed(f"{annotations} gives one name to several categories, and labels are matched by name")
    missing = [picture.path for picture in pictures if not picture.path.is_file()]
    if missing:
        raise EvaluationFailed(f"{len(missing)} of {len(pictures)} images are missing, the first is {missing[0]}")
    return Dataset(content, pictures, category_ids)


def _picture(image: Mapping[str, Any], folder: Path) -> Picture:
    wh = (image["width"], image["height"]) if "width" in image and "height" in image else None
    return Picture(image["id"], folder / image["file_name"], wh)


@dataclass(frozen=True, slots=True)
class Run:
    """What came of sending every picture: the model (`name/version`), COCO results, the time, and what looks wrong."""

    model: str
    results: list[dict[str, Any]]
    seconds: float
    warnings: list[str]


async def detect_all(dataset: Dataset, url: str, query: Query, concurrency: int, timeout_seconds: float) -> Run:
    """Sends every picture, `concurrency` at a time, and gathers COCO results in the data set's order.

    Raises:
        EvaluationFailed: Any picture got no answer, or a wrong one.
    """
    started = time.perf_counter()
    async with connect(url, timeout_seconds) as gateway:
        answers = await _ask_for_all(gateway, dataset, query, concurrency)
        seconds = time.perf_counter() - started
        model = _only_model(answers)
        labels = await gateway.labels(model.rpartition("/")[0])
    results = [
        row
        for picture, answer in zip(dataset.pictures, answers, strict=True)
        for row in coco_results(picture.id, answer, dataset.category_ids)
    ]
    return Run(model, results, seconds, [*_mute_categories(dataset, labels), *_other_sizes(dataset, answers)])


async def _ask_for_all(gateway: Gateway, dataset: Dataset, query: Query, concurrency: int) -> list[Answer]:
    """The answers in the order of the pictures; the first failure ends all requests."""
    from tqdm import tqdm  # noqa: PLC0415 (see EXTRA)

    answers: dict[int, Answer] = {}
    waiting = enumerate(dataset.pictures)

    async def ask() -> None:
        for position, picture in waiting:
            answers[position] = answer = await _ask_for_one(gateway, picture, query)
            check_labels(answer, dataset.category_ids)
            progress.update()

    failure: BaseException | None = None
    with tqdm(
        total=len(dataset.pictures), unit="image", disable=None
    ) as progress:  # None: silent where there is no terminal
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(dataset.pictures))):
                    group.create_task(ask())
        except* EvaluationFailed as failures:
            failure = failures.exceptions[0]
    if failure:
        raise failure
    return [answers[position] for position in range(len(dataset.pictures))]


async def _ask_for_one(gateway: Gateway, picture: Picture, query: Query) -> Answer:
    try:
        data = await asyncio.to_thread(picture.path.read_bytes)
        return await gateway.detect(data, query)
    except OSError as error:
        raise EvaluationFailed(f"cannot read {picture.path}: {error.strerror}") from error
    except EvaluationFailed as error:
        raise EvaluationFailed(f"{picture.path.name}: {error.message}") from error


def _only_model(answers: Sequence[Answer]) -> str:
    models = sorted({answer.model for answer in answers})
    if len(models) > 1:
        raise EvaluationFailed(f"the answers came from several models, so one figure says nothing: {', '.join(models)}")
    return models[0]


def check_labels(answer: Answer, category_ids: Mapping[str, int]) -> None:
    """Makes sure that every label is the name of a category.

    Raises:
        EvaluationFailed: One is not; the message names it and the categories.
    """
    unknown = next((label for label, _, _ in answer.detections if label not in category_ids), None)
    if unknown is not None:
        known = ", ".join(category_ids)
        raise EvaluationFailed(f"{answer.model} answers {unknown!r}, but the annotations know only {known}")


def coco_results(image_id: int, answer: Answer, category_ids: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """The answer about one image as COCO results, labels matched to categories by name."""
    for label, score, (x1, y1, x2, y2) in answer.detections:
        bbox = [x1, y1, x2 - x1, y2 - y1]
        yield {"image_id": image_id, "category_id": category_ids[label], "bbox": bbox, "score": score}


def _mute_categories(dataset: Dataset, labels: Sequence[str] | None) -> Iterator[str]:
    """A warning if the model has no label for some categories: they count as AP 0."""
    mute = [name for name in dataset.category_ids if labels is not None and name not in labels]
    if mute:
        yield f"the model never answers these categories, which lowers the mean: {', '.join(mute)}"


def _other_sizes(dataset: Dataset, answers: Sequence[Answer]) -> Iterator[str]:
    """A warning if pictures were decoded in another size than the annotations give, as EXIF orientation does."""
    pairs = zip(dataset.pictures, answers, strict=True)
    other = [picture.path.name for picture, answer in pairs if picture.wh not in {None, answer.image_wh}]
    if other:
        yield f"{len(other)} images have another size than their annotations say, the first is {other[0]}"


# --- the report -------------------------------------------------------------------------------------------------------


def report_table(dataset: Dataset, metrics: Metrics) -> str:
    """One line per class and one for all: number of ground-truth boxes and the three average precisions."""
    boxes = [annotation["category_id"] for annotation in dataset.annotations["annotations"]]
    rows = [(name, boxes.count(dataset.category_ids[name]), figures) for name, figures in metrics.per_class.items()]
    rows.append(("all", len(boxes), metrics.mean))
    width = max(len(name) for name, _, _ in rows)
    head = f"{'class':{width}}  {'boxes':>6}  {'AP50-95':>7}  {'AP50':>7}  {'AP75':>7}"
    lines = [
        f"{name:{width}}  {count:6}  {_figure(figures.ap50_95)}  {_figure(figures.ap50)}  {_figure(figures.ap75)}"
        for name, count, figures in rows
    ]
    return "\n".join([head, *lines])


def _figure(value: float) -> str:
    return f"{'-':>7}" if math.isnan(value) else f"{value:7.4f}"


def report_json(dataset: Dataset, run: Run, metrics: Metrics, query: Query, concurrency: int) -> dict[str, Any]:
    """All figures of one evaluation; an average precision without ground truth is null."""
    name, _, version = run.model.rpartition("/")
    return {
        "model": {"name": name, "version": version},
        "images": len(dataset.pictures),
        "ground_truth_boxes": len(dataset.annotations["annotations"]),
        "detections": len(run.results),
        "score_threshold": query.score_threshold,
        "iou_threshold": query.iou_threshold,
        "max_detections": query.max_detections,
        "concurrency": concurrency,
        "seconds": run.seconds,
        "images_per_second": len(dataset.pictures) / run.seconds,
        "warnings": run.warnings,
        "metrics": {
            **{f"m{name}": value for name, value in _figures(metrics.mean).items()},
            "per_class": {name: _figures(figures) for name, figures in metrics.per_class.items()},
        },
    }


def _figures(figures: AveragePrecision) -> dict[str, float | None]:
    """The three figures by the names that COCO gives them."""
    return {name.upper(): None if math.isnan(value) else value for name, value in asdict(figures).items()}


def _write_atomically(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the report beside `path` and renames it: a reader meets the old file or the whole new one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        partial.replace(path)
    except OSError as error:
        raise EvaluationFailed(f"cannot write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _check_before_start(url: str, report: Path | None) -> None:
    """Finds what would fail after minutes of work.

    Raises:
        EvaluationFailed: A package is missing, `url` is none, or the report has no folder to go to.
    """
    lacking = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if lacking:
        raise EvaluationFailed(f"evaluation needs {', '.join(lacking)}: pip install 'eagleeye[evaluate]'")
    check_url(url)
    if report and not report.parent.is_dir():
        raise EvaluationFailed(f"cannot write {report}: there is no folder {report.parent}")


def check_url(url: str) -> None:
    """Makes sure that `url` can be the address of a gateway.

    Raises:
        EvaluationFailed: It cannot.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable:
        raise EvaluationFailed(f"{url!r} is no address of a gateway, which looks like http://127.0.0.1:8080")


PATH: Final = click.Path(path_type=Path)
SHARE: Final = click.FloatRange(0, 1)


@click.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Address of the gateway.")
@click.option("--images", required=True, type=PATH, help="Folder of the images that the COCO file names.")
@click.option("--annotations", required=True, type=PATH, help="COCO file with the ground truth.")
@click.option("--model", help="Model to evaluate.  [default: the gateway's]")
@click.option(
    "--score-threshold",
    default=0.05,
    show_default=True,
    type=SHARE,
    help="Detections score more than this.",
)
@click.option("--iou-threshold", default=0.7, show_default=True, type=SHARE, help="IoU above which NMS drops a box.")
@click.option("--max-detections", default=500, show_default=True, type=click.IntRange(1), help="Boxes per image.")
@click.option("--concurrency", default=8, show_default=True, type=click.IntRange(1, 256), help="Requests at a time.")
@click.option("--timeout-seconds", default=30.0, show_default=True, type=click.FloatRange(0.1), help="Per request.")
@click.option("--json", "report", type=PATH, help="File to write all figures to.")
def evaluate(
    *,
    url: str,
    images: Path,
    annotations: Path,
    model: str | None,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    concurrency: int,
    timeout_seconds: float,
    report: Path | None,
) -> None:
    """Sends every image of a COCO data set through a live gateway and prints the mAP of its answers."""
    _check_before_start(url, report)
    dataset = read_dataset(annotations, images)
    query = Query(model, score_threshold, iou_threshold, max_detections)
    run = asyncio.run(detect_all(dataset, url, query, concurrency, timeout_seconds))
    for warning in run.warnings:
        click.echo(f"Warning: {warning}", err=True)
    metrics = coco_metrics(dataset.annotations, run.results)
    click.echo(report_table(dataset, metrics))
    pace = len(dataset.pictures) / run.seconds
    click.echo(f"{run.model}: {len(dataset.pictures)} images, {len(run.results)} detections, {pace:.1f} images/s")
    if report:
        _write_atomically(report, report_json(dataset, run, metrics, query, concurrency))
