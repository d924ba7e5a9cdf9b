"""Log lines: one JSON object each, on stderr."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

ROOT = "polyseme"
log = logging.getLogger(ROOT)
calls_log = logging.getLogger(f"{ROOT}.calls")
audit_log = logging.getLogger(f"{ROOT}.audit")  # who was turned away, and why


class JsonLines(logging.Formatter):
    """What `extra={"fields": {...}}` holds goes beside time, level, logger and message."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(getattr(record, "fields", {}))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class CallersPresent(logging.Filter):
    """Drops gRPC's stack for a caller who went while an answer was being sent: the call's own
    line tells it, and nobody can mend it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "ExecuteBatchError raised in core by servicer method" not in record.getMessage()


def log_failure(error: BaseException, request_id: str, **fields: str) -> None:
    """The whole of an error of which the caller is told next to nothing."""
    fields = {"request_id": request_id, **fields}
    log.error("a call failed", exc_info=error, extra={"fields": fields})


def start_logging(level: str, stream: TextIO | None = None) -> None:
    """Send the lines of every logger from `level` up to `stream`, stderr by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("grpc._cython.cygrpc").addFilter(CallersPresent())
    for noisy in ("asyncio", "uvicorn.access", "grpc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
