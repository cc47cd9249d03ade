"""A TensorBoard event file, written by whoever shows something.

The writer that comes with TensorBoard has a thread of its own. Where the disk is full that thread dies, and whoever
shows something next waits for it for ever. Here an event is written whole, or not at all and the error is raised.
"""

import io
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from everstep.train.appended import AppendedFile
from everstep.versions import Version

VERSION = "brain.Event:2"


class EventFile:
    """Begins with the first event; whatever older files of the folder have from that step on is not shown any more."""

    def __init__(self, folder: Path) -> None:
        name = f"events.out.tfevents.{time.time():.6f}.{platform.node()}.{os.getpid()}"
        self._file = AppendedFile(folder / name)
        self._is_begun = False

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Raises: OSError."""
        self._add([Summary.Value(tag=name, simple_value=value) for name, value in values.items()], step)

    def picture(self, tag: str, pixels_HWC: Any, step: int) -> None:
        """Raises: OSError."""
        encoded = io.BytesIO()
        Image.fromarray(pixels_HWC).save(encoded, "PNG")
        height, width, _ = pixels_HWC.shape
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.getvalue())
        self._add([Summary.Value(tag=tag, image=image)], step)

    def version(self, version: Version) -> None:
        """It has no place for one."""

    def close(self) -> None:
        self._file.close()

    def _add(self, values: list[Any], step: int) -> None:
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        before = b""
        if not self._is_begun:
            start = SessionLog(status=SessionLog.START)
            before = _record(Event(wall_time=time.time(), file_version=VERSION))
            before += _record(Event(wall_time=time.time(), step=step, session_log=start))
        self._file.append(before + _record(event))
        self._is_begun = True


def _record(event: Any) -> bytes:
    """With its length and checksums."""
    framed = io.BytesIO()
    RecordWriter(framed).write(event.SerializeToString())
    return framed.getvalue()
