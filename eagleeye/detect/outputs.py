"""Where answers go: one class a format. Each keeps what it was given even if the process is killed, but for a video."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from eagleeye.detect import rows
from eagleeye.detect.pictures import Failure, pixels_of
from eagleeye.files import replacing, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path, PurePath

    from eagleeye import Detections
    from eagleeye.detect.journal import Journal
    from eagleeye.detect.pictures import Picture, UInt8Array
    from eagleeye.detect.rows import Key
    from eagleeye.detect.video import VideoWriter


class Format(StrEnum):
    """The forms of an output; the value is what `--format` says."""

    JSONL = "jsonl"
    CSV = "csv"
    COCO = "coco"
    IMAGES = "images"
    VIDEO = "video"


SUFFIXES: Final = {
    **dict.fromkeys((".jsonl", ".ndjson"), Format.JSONL),
    ".csv": Format.CSV,
    ".json": Format.COCO,
    **dict.fromkeys((".mp4", ".mov", ".mkv", ".avi", ".webm"), Format.VIDEO),
}
"""Suffix of an output -> its format where none is named."""


class Output(Protocol):
    """Takes the answers of a run, in order."""

    def write(self, picture: Picture, found: Detections) -> None:
        """Keeps what was found.

        Raises:
            Failure: it cannot be written about this one picture.
            OSError: nothing can be written any more.
        """

    def fail(self, picture: Picture, failure: Failure) -> None:
        """Takes note that there is no answer, where the format has a place for it.

        Raises:
            OSError: nothing can be written any more.
        """

    def finish(self) -> None:
        """Makes the output whole: everything that was written is in it.

        Raises:
            OSError: it cannot be written.
        """


class JsonLines:
    """One JSON object a line for each picture, also for those that failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, picture: Picture, found: Detections) -> None:
        """See Output."""
        self._put(rows.answer_row(picture, found))

    def fail(self, picture: Picture, failure: Failure) -> None:
        """See Output."""
        self._put(rows.error_row(picture, failure))

    def finish(self) -> None:
        """See Output."""

    def _put(self, row: Mapping[str, Any]) -> None:
        self._file.write(rows.json_line(row))
        self._file.flush()


class Csv:
    """One row for each detection, or one without any for a picture in which nothing was found."""

    def __init__(self, file: BinaryIO, *, is_new: bool) -> None:
        self._file = file
        if is_new:
            self._put([rows.COLUMNS])

    def write(self, picture: Picture, found: Detections) -> None:
        """See Output."""
        self._put(rows.csv_rows(rows.answer_row(picture, found)))

    def fail(self, picture: Picture, failure: Failure) -> None:
        """A row without an answer would be taken for one."""

    def finish(self) -> None:
        """See Output."""

    def _put(self, lines: Sequence[Sequence[Any]]) -> None:
        self._file.write(rows.csv_lines(lines))
        self._file.flush()


class Coco:
    """One COCO file, made at the end of what the journal has kept."""

    ROW: Final = "row"

    def __init__(self, path: Path, journal: Journal, labels: Mapping[str, Sequence[str]]) -> None:
        """Args: `labels` are the class names of each model, by class id."""
        self._path = path
        self._journal = journal
        self._labels = labels

    @classmethod
    def done(cls, journal: Journal) -> set[Key]:
        """What the journal has kept of an earlier run."""
        return {(row["input"], row.get("frame")) for row in journal.read(cls.ROW)}

    def write(self, picture: Picture, found: Detections) -> None:
        """See Output."""
        self._journal.note(self.ROW, rows.answer_row(picture, found))

    def fail(self, picture: Picture, failure: Failure) -> None:
        """COCO has no place for it."""

    def finish(self) -> None:
        """Writes the file. The journal is read once for each list, as all rows may be more than fits into memory."""
        with replacing(self._path) as file:
            lists = {"images": self._images(), "annotations": self._annotations(), "categories": self._categories()}
            for position, (name, entries) in enumerate(lists.items()):
                file.write((b",\n" if position else b"{") + json.dumps(name).encode() + b": [")
                for number, entry in enumerate(entries):
                    file.write((b",\n " if number else b"\n ") + json.dumps(entry).encode())
                file.write(b"\n]")
            file.write(b"}\n")

    def _images(self) -> Iterator[dict[str, Any]]:
        for image_id, row in enumerate(self._journal.read(self.ROW), start=1):
            frame = {name: row[name] for name in ("frame", "time_seconds") if name in row}
            yield {"id": image_id, "file_name": row["input"], **row["image"], **frame}

    def _annotations(self) -> Iterator[dict[str, Any]]:
        number = 0
        for image_id, row in enumerate(self._journal.read(self.ROW), start=1):
            for detection in row["detections"]:
                number += 1  # from 1: COCO's evaluation takes a 0 for "no match"
                yield {"id": number, "image_id": image_id, "iscrowd": 0, **_coco_box(detection)}

    def _categories(self) -> Iterator[dict[str, Any]]:
        """Every class of the model, also those that were not found; a class id is the same here."""
        names = dict[int, str]()
        for row in self._journal.read(self.ROW):
            for class_id, label in enumerate(self._labels.get(row["model"]["name"], ())):
                names.setdefault(class_id, label)
            for detection in row["detections"]:
                names.setdefault(detection["class_id"], detection["label"])
        for class_id, label in sorted(names.items()):
            yield {"id": class_id, "name": label}


def _coco_box(detection: Mapping[str, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = detection["box"].values()
    width, height = x2 - x1, y2 - y1
    return {
        "category_id": detection["class_id"],
        "bbox": [x1, y1, width, height],
        "area": width * height,
        "score": detection["score"],
    }


class Images:
    """A folder of pictures with the detections drawn on them, by the places of their sources."""

    DONE: Final = "done"

    def __init__(self, folder: Path, journal: Journal) -> None:
        self._folder = folder
        self._journal = journal

    @classmethod
    def done(cls, journal: Journal) -> set[Key]:
        """What the journal knows to be drawn."""
        return {(name, frame) for name, frame in journal.read(cls.DONE)}

    def write(self, picture: Picture, found: Detections) -> None:
        """See Output."""
        from gateway.annotate import encode_image  # noqa: PLC0415 (OpenCV, which other formats do not need)

        target = self._folder / drawn_name(picture.relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, encode_image(drawn(picture, found), target.suffix))
        self._journal.note(self.DONE, picture.key)

    def fail(self, picture: Picture, failure: Failure) -> None:
        """A picture without detections would look like one in which nothing was found."""

    def finish(self) -> None:
        """See Output."""


def drawn_name(relative: PurePath) -> PurePath:
    """The place of a drawn picture: its source's, with `.png` added where that is neither JPEG nor PNG."""
    from gateway.annotate import ENCODINGS  # noqa: PLC0415 (OpenCV)

    return relative if relative.suffix.lower() in ENCODINGS else relative.with_name(f"{relative.name}.png")


def drawn(picture: Picture, found: Detections) -> UInt8Array:
    """The picture with its detections, uint8 (H, W, 3) RGB.

    Raises:
        Failure: it cannot be read here, or is of another size than for the gateway.
    """
    from gateway.annotate import draw_detections  # noqa: PLC0415 (OpenCV)

    pixels = pixels_of(picture)
    if found.image_wh != pixels.shape[1::-1]:
        raise Failure(f"it has another size for the gateway: {found.image_wh}, not {pixels.shape[1::-1]}")
    return draw_detections(pixels, found.xyxy, found.labels, found.scores)


class Video:
    """A video with the detections drawn on it, which has its name only when it is whole or its run was stopped."""

    def __init__(self, path: Path, writer: VideoWriter) -> None:
        """Args: `writer` writes to `partial_video(path)`."""
        self._path = path
        self._writer = writer

    def write(self, picture: Picture, found: Detections) -> None:
        """See Output."""
        self._writer.write(drawn(picture, found), picture.time_seconds or 0.0)

    def fail(self, picture: Picture, failure: Failure) -> None:  # noqa: ARG002 (as Output has it)
        """The frame is shown as it was, so that the others keep their time."""
        if picture.pixels is not None:
            self._writer.write(picture.pixels, picture.time_seconds or 0.0)

    def finish(self) -> None:
        """See Output."""
        self._writer.close()
        if self._writer.path.exists():
            self._writer.path.replace(self._path)
