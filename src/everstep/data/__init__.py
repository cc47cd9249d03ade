"""Pairs: where they come from, whether they can be used, and in which order and shape they are trained on.

Never imports torch.
"""

from everstep.data.checking import CheckReport, check
from everstep.data.framing import FIRST, Framed, Framer
from everstep.data.held_out import Split, split, split_as
from everstep.data.layouts.columns import Columns
from everstep.data.layouts.detection import is_elsewhere
from everstep.data.loader import BatchStream
from everstep.data.patience import PatientSource, StopAsked
from everstep.data.sequence import BucketOrder, Order, SquareOrder
from everstep.data.source import Source, describe, listed, open_source, source_of
from everstep.data.transform import fit, frame

__all__ = [
    "FIRST",
    "BatchStream",
    "BucketOrder",
    "CheckReport",
    "Columns",
    "Framed",
    "Framer",
    "Order",
    "PatientSource",
    "Source",
    "Split",
    "SquareOrder",
    "StopAsked",
    "check",
    "describe",
    "fit",
    "frame",
    "is_elsewhere",
    "listed",
    "open_source",
    "source_of",
    "split",
    "split_as",
]
