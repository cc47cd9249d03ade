"""The store: a training kept as numbered, complete, verified versions on disk. Never imports torch.

    run = Run.create(Path("runs/mine"), hparams_yaml)
    with run.lock("my loop"):
        run.recover()
        version = run.newest_whole(print)      # None on the first start
        run.commit(Draft(...))                 # a version, or nothing

Knows tensor names, dtypes, shapes and bytes; not models. Settings are opaque to it.
"""

from everstep.versions.annotations import Annotation, write_annotation
from everstep.versions.digests import digest
from everstep.versions.forecast import Course
from everstep.versions.holder import LockHolder
from everstep.versions.layout import run_folder, split_spec
from everstep.versions.live import LiveStatus, read_live, write_live
from everstep.versions.loading import load_into
from everstep.versions.lock import Held
from everstep.versions.requests import (
    Request,
    answer,
    clear_requests,
    drop_request,
    is_waiting,
    read_answer,
    read_requests,
    write_request,
)
from everstep.versions.run import Run
from everstep.versions.status import Outlook, RunStatus, outlook, row, rows, status
from everstep.versions.tensorfile import LoadedTensor
from everstep.versions.verify import Fault
from everstep.versions.version import Version, describe_damage, read_small, read_tensors, verify

__all__ = [
    "Annotation",
    "Course",
    "Fault",
    "Held",
    "LiveStatus",
    "LoadedTensor",
    "LockHolder",
    "Outlook",
    "Request",
    "Run",
    "RunStatus",
    "Version",
    "answer",
    "clear_requests",
    "describe_damage",
    "digest",
    "drop_request",
    "is_waiting",
    "load_into",
    "outlook",
    "read_answer",
    "read_live",
    "read_requests",
    "read_small",
    "read_tensors",
    "row",
    "rows",
    "run_folder",
    "split_spec",
    "status",
    "verify",
    "write_annotation",
    "write_live",
    "write_request",
]
