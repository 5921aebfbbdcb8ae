"""Structured logs: JSON for machines, coloured text for a person at a terminal; both on standard error."""

from __future__ import annotations

import logging
import sys

import orjson
import structlog
from aiohttp.http_exceptions import HttpProcessingError


def configure(log_format: str, worker: int | None = None) -> None:
    """Set up logging for the process. `log_format` is `json`, `text` or `auto` (text on a terminal).

    Every line of a `worker` bears its number.
    """
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if worker is not None:
        shared.append(lambda _logger, _method, event: {**event, "worker": worker})
    if as_text:
        renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # where rich is installed, it would show local variables
        )
    else:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer(serializer=_dumps)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # each line by one write, so that processes that share a log don't write into each other's
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # what libraries say through the standard library (aiohttp, asyncio) takes the same way out
    formatter = structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=renderer)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("aiohttp.server").addFilter(_without_content)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_without_metadata)


def _without_content(record: logging.LogRecord) -> bool:
    """Say what is wrong with a malformed request, but don't quote it as aiohttp does: its line may hold a key."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args, record.exc_info = f"malformed request: {type(error).__name__}", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def _without_metadata(record: logging.LogRecord) -> bool:
    """Say that a caller's metadata are malformed, but don't quote them as gRPC does: they may hold a key."""
    if record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError):
        record.msg, record.args, record.exc_info = "malformed call: metadata that are not UTF-8", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def _dumps(event: dict[str, object], **_: object) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_SERIALIZE_NUMPY).decode()
