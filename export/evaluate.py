"""COCO mAP of what a live gateway answers: the whole way from image bytes to boxes is measured, as users meet it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from eagleeye.connection import connection_options, split
from eagleeye.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eagleeye import Client, Detections, EagleEyeError

EXTRA: Final = ("pycocotools", "tqdm")
"""What only evaluation needs. Imported where it is used, so that `--help` answers at once and without any of it."""


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
    curves: dict[str, list[float] | None]
    """For each class the precision at IoU 0.5 for recalls of 0, 0.01, ..., 1; None without ground truth."""


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
    curves = {
        names[category_id]: _curve(precision[0, :, position])
        for position, category_id in enumerate(evaluation.params.catIds)
    }
    return Metrics(_average(precision), per_class, curves)


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


def _curve(precision: Any) -> list[float] | None:
    return None if (precision < 0).any() else [float(value) for value in precision]


def _average(precision: Any) -> AveragePrecision:
    """The average precision of a (10, R, C) array in which -1 marks a class without ground truth."""
    picks = (precision, precision[0], precision[5])
    return AveragePrecision(*(float(pick[pick > -1].mean()) if (pick > -1).any() else math.nan for pick in picks))


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


def detect_all(dataset: Dataset, client: Client, options: Mapping[str, Any]) -> Run:
    """Sends every picture, several at a time, and gathers COCO results in the data set's order.

    Args:
        dataset: the pictures and their truth.
        client: the gateway.
        options: those of `Client.detect`.

    Raises:
        EvaluationFailed: Any picture got no answer, or a wrong one.
    """
    started = time.perf_counter()
    answers = _ask_for_all(dataset, client, options)
    seconds = time.perf_counter() - started
    model = _only_model(answers)
    results = [
        row
        for picture, answer in zip(dataset.pictures, answers, strict=True)
        for row in coco_results(picture.id, answer, dataset.category_ids)
    ]
    labels = _labels(client, answers[0].model)
    return Run(model, results, seconds, [*_mute_categories(dataset, labels), *_other_sizes(dataset, answers)])


def _ask_for_all(dataset: Dataset, client: Client, options: Mapping[str, Any]) -> list[Detections]:
    """The answers in the order of the pictures; the first failure ends all requests."""
    from tqdm import tqdm  # noqa: PLC0415 (see EXTRA)

    paths = [picture.path for picture in dataset.pictures]
    answers: list[Detections] = []
    outcomes = client.detect_many(paths, return_errors=True, **options)
    try:
        with (
            contextlib.closing(outcomes),
            tqdm(total=len(paths), unit="image", disable=None) as progress,  # None: silent where there is no terminal
        ):
            for path, outcome in zip(paths, outcomes, strict=True):
                answers.append(_checked(outcome, path, dataset.category_ids))
                progress.update()
    except OSError as error:
        raise EvaluationFailed(f"cannot read {error.filename}: {error.strerror}") from error
    return answers


def _checked(outcome: Detections | EagleEyeError, path: Path, category_ids: Mapping[str, int]) -> Detections:
    if isinstance(outcome, Exception):
        raise EvaluationFailed(f"{path.name}: {outcome}") from outcome
    check_labels(outcome, category_ids)
    return outcome


def _labels(client: Client, model: str) -> tuple[str, ...] | None:
    """The labels that a model can answer, or None if the gateway does not say."""
    from eagleeye.client import EagleEyeError  # noqa: PLC0415 (NumPy, which help does not need)

    try:
        return client.model(model).labels
    except EagleEyeError:  # no reason to lose what was measured
        return None


def _name(answer: Detections) -> str:
    return f"{answer.model}/{answer.version}"


def _only_model(answers: Sequence[Detections]) -> str:
    models = sorted({_name(answer) for answer in answers})
    if len(models) > 1:
        raise EvaluationFailed(f"the answers came from several models, so one figure says nothing: {', '.join(models)}")
    return models[0]


def check_labels(answer: Detections, category_ids: Mapping[str, int]) -> None:
    """Makes sure that every label is the name of a category.

    Raises:
        EvaluationFailed: One is not; the message names it and the categories.
    """
    unknown = next((label for label in answer.labels if label not in category_ids), None)
    if unknown is not None:
        known = ", ".join(category_ids)
        raise EvaluationFailed(f"{_name(answer)} answers {unknown!r}, but the annotations know only {known}")


def coco_results(image_id: int, answer: Detections, category_ids: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """The answer about one image as COCO results, labels matched to categories by name."""
    for label, score, (x1, y1, x2, y2) in zip(answer.labels, answer.scores.tolist(), answer.xyxy.tolist(), strict=True):
        bbox = [x1, y1, x2 - x1, y2 - y1]
        yield {"image_id": image_id, "category_id": category_ids[label], "bbox": bbox, "score": score}


def _mute_categories(dataset: Dataset, labels: Sequence[str] | None) -> Iterator[str]:
    """A warning if the model has no label for some categories: they count as AP 0."""
    mute = [name for name in dataset.category_ids if labels is not None and name not in labels]
    if mute:
        yield f"the model never answers these categories, which lowers the mean: {', '.join(mute)}"


def _other_sizes(dataset: Dataset, answers: Sequence[Detections]) -> Iterator[str]:
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


def report_json(
    dataset: Dataset, run: Run, metrics: Metrics, options: Mapping[str, Any], concurrency: int
) -> dict[str, Any]:
    """All figures of one evaluation; an average precision without ground truth is null."""
    name, _, version = run.model.rpartition("/")
    return {
        "model": {"name": name, "version": version},
        "images": len(dataset.pictures),
        "ground_truth_boxes": len(dataset.annotations["annotations"]),
        "detections": len(run.results),
        "score_threshold": options["score_threshold"],
        "iou_threshold": options["iou_threshold"],
        "max_detections": options["max_detections"],
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


def _write(path: Path, report: Mapping[str, Any]) -> None:
    try:
        write_atomically(path, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise EvaluationFailed(f"cannot write {path}: {error.strerror}") from error


def _check_before_start(report: Path | None) -> None:
    """Finds what would fail after minutes of work.

    Raises:
        EvaluationFailed: A package is missing, or the report has no folder to go to.
    """
    lacking = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if lacking:
        raise EvaluationFailed(f"evaluation needs {', '.join(lacking)}: pip install 'eagleeye[evaluate]'")
    if report and not report.parent.is_dir():
        raise EvaluationFailed(f"cannot write {report}: there is no folder {report.parent}")


PATH: Final = click.Path(path_type=Path)
SHARE: Final = click.FloatRange(0, 1)


@click.command()
@connection_options(timeout_seconds=30.0)
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
@click.option("--json", "report", type=PATH, help="File to write all figures to.")
def evaluate(
    *,
    images: Path,
    annotations: Path,
    model: str | None,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    concurrency: int,
    report: Path | None,
    **values: Any,
) -> None:
    """Sends every image of a COCO data set through a live gateway and prints the mAP of its answers."""
    _check_before_start(report)
    options = {
        "model": model,
        "score_threshold": score_threshold,
        "iou_threshold": iou_threshold,
        "max_detections": max_detections,
    }
    with split(values).client(concurrency=concurrency) as client:
        dataset = read_dataset(annotations, images)
        run = detect_all(dataset, client, options)
    for warning in run.warnings:
        click.echo(f"Warning: {warning}", err=True)
    metrics = coco_metrics(dataset.annotations, run.results)
    click.echo(report_table(dataset, metrics))
    pace = len(dataset.pictures) / run.seconds
    click.echo(f"{run.model}: {len(dataset.pictures)} images, {len(run.results)} detections, {pace:.1f} images/s")
    if report:
        _write(report, report_json(dataset, run, metrics, options, concurrency))
