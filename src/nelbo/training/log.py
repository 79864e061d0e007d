"""The log of a run: log.jsonl always, and a tracker where one is named."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from nelbo.files import regular, write_atomic
from nelbo.runtime import Tracker
from nelbo.typing import Json


class Log:
    """log.jsonl: one record a line. On resume the lines after the checkpoint are dropped: steps after `step`, and
    bounds after step `validated`.

    Errors: OSError naming the file, as where the disk is full.
    """

    def __init__(self, path: Path, step: int, validated: int, tracker: Tracker | None = None):
        kept = []
        if step and path.exists():
            for line in regular(path).read_text().splitlines():
                try:
                    record = json.loads(line)
                    if record["step"] <= (validated if "bound" in record else step):
                        kept.append(line + "\n")
                except (ValueError, KeyError, TypeError):
                    continue  # a line cut off by a crash
        write_atomic(path, "".join(kept))
        self.path, self.tracker = path, tracker
        self.file = path.open("a")

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.file.close()
        except OSError:
            if error is None:
                raise
        if self.tracker is not None:
            self.tracker.finish()

    def write(self, record: Json) -> None:
        """One line, where the record holds a loss or a bound."""
        if "loss" not in record and "bound" not in record:
            return
        try:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.path)) from error
        if self.tracker is not None:
            step = record["step"]
            self.tracker.log({k: v for k, v in record.items() if k not in ("step", "steps")}, step)


class SilentLog(Log):
    """The log of a process whose records another one writes."""

    def __init__(self) -> None:
        self.tracker = None

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def write(self, record: Json) -> None:
        """Nothing is written."""
