"""What is written about one picture, as JSON and as CSV, and how it is found again in a file that was not finished."""

from __future__ import annotations

import csv
import io
import itertools
import json
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from eagleeye.files import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from eagleeye import Detections
    from eagleeye.detect.pictures import Failure, Picture

Key: TypeAlias = tuple[str, int | None]
"""Which picture: the name of its source, and the frame's number in a video."""
Finished: TypeAlias = "Callable[[Path], Iterator[tuple[Key | None, bytes]]]"
"""Reads what an unfinished file says of each picture that it has wholly; None is the key of a header."""

COLUMNS: Final = (
    *("input", "frame", "time_seconds", "width", "height", "model", "version", "detections"),
    *("label", "class_id", "score", "x1", "y1", "x2", "y2"),
)
"""Of CSV. `detections` counts the rows of the picture; one without any has one row that ends after the 0."""
_COUNT: Final = COLUMNS.index("detections")


def answer_row(picture: Picture, found: Detections) -> dict[str, Any]:
    """What the gateway's REST answer says of a picture, after which picture it is."""
    width, height = found.image_wh
    columns = (found.labels, found.class_ids.tolist(), _shortest(found.scores), map(_shortest, found.xyxy))
    return {
        **_which(picture),
        "model": {"name": found.model, "version": found.version},
        "image": {"width": width, "height": height},
        "detections": [
            {
                "label": label,
                "class_id": class_id,
                "score": score,
                "box": dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
            }
            for label, class_id, score, box in zip(*columns, strict=True)
        ],
    }


def error_row(picture: Picture, failure: Failure) -> dict[str, Any]:
    """Why there is no answer about a picture."""
    error = {"code": failure.code, "detail": str(failure), "request_id": failure.request_id}
    return {**_which(picture), "error": {name: value for name, value in error.items() if value is not None}}


def csv_rows(row: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of `COLUMNS` that say what an `answer_row` says; at least one."""
    image, model, found = row["image"], row["model"], row["detections"]
    common = (
        *(row["input"], row.get("frame"), row.get("time_seconds"), image["width"], image["height"]),
        *(model["name"], model["version"], len(found)),
    )
    nothing = (None,) * (len(COLUMNS) - len(common))
    return [(*common, each["label"], each["class_id"], each["score"], *each["box"].values()) for each in found] or [
        (*common, *nothing)
    ]


def json_line(row: Any) -> bytes:
    """A row as one line of ASCII, so that file names in no known encoding come back as they are."""
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def csv_lines(rows: Sequence[Sequence[Any]]) -> bytes:
    """Rows as they stand in the file, UTF-8; file names in no known encoding keep their bytes."""
    text = io.StringIO(newline="")
    for row in rows:
        has_return = any(
            "\r" in str(cell) for cell in row
        )  # Python's writer quotes it from 3.13 on, its reader insists
        csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL).writerow(row)
    return text.getvalue().encode(errors="surrogateescape")


def finished_json(path: Path) -> Iterator[tuple[Key | None, bytes]]:
    """`Finished` for `json_line`s of `answer_row`s; what failed is not finished."""
    with path.open("rb") as lines:
        for line in lines:
            row = read_json_line(line)
            if isinstance(row, dict) and "input" in row and "error" not in row:
                yield (row["input"], row.get("frame")), line


def read_json_line(line: bytes) -> Any:
    """What a whole line says, None for one that is torn."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def finished_csv(path: Path) -> Iterator[tuple[Key | None, bytes]]:
    """`Finished` for `csv_lines` of `csv_rows`: a picture counts when it has as many rows as they say."""
    with path.open(newline="\n", encoding="utf-8", errors="surrogateescape") as file:
        whole = csv.reader(line for line in file if line.endswith("\n"))
        rows = (row for row in whole if len(row) == len(COLUMNS))
        for (name, frame), group in itertools.groupby(rows, key=lambda row: row[:2]):
            lines = list(group)
            if tuple(lines[0]) == COLUMNS:
                yield None, csv_lines(lines)
            elif str(len(lines)) == lines[0][_COUNT] or lines[0][_COUNT] == "0":
                yield (name, int(frame) if frame else None), csv_lines(lines)


def recover(path: Path, finished: Finished) -> set[Key]:
    """Takes out of an interrupted run's file what is torn or failed, and tells which pictures stay.

    Raises:
        OSError: the file cannot be read or written; it is as it was.
    """
    keys, size = set[Key | None](), 0
    for key, data in finished(path):
        keys.add(key)
        size += len(data)
    if size != path.stat().st_size:
        with replacing(path) as file:
            file.writelines(data for _, data in finished(path))
    return {key for key in keys if key is not None}


def _which(picture: Picture) -> dict[str, Any]:
    if picture.frame is None:
        return {"input": picture.name}
    return {"input": picture.name, "frame": picture.frame, "time_seconds": picture.time_seconds}


def _shortest(values: Any) -> list[float]:
    """Float32 numbers as the shortest decimals that mean them, which is how the gateway's JSON writes them."""
    return [float(str(value)) for value in values]
