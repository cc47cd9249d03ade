"""The cache of a training to come, filled without one: `everstep cache`."""

from dataclasses import dataclass
from pathlib import Path

from everstep.config.schema import Config
from everstep.contracts import During, Report
from everstep.launch.checks import complete
from everstep.train.ready import open_data, order_of, pairs_of


@dataclass(frozen=True, slots=True)
class Cached:
    """What is there afterwards."""

    folder: Path
    pairs: int
    made: int  # pictures and prompts that were missing
    bytes: int  # of all that lies on the same shelves
    root: str  # digest of what a training on these pairs will be given


def cache(config: Config, report: Report, during: During) -> Cached:
    """Encode all that is missing.

    Raises: UserError; DiskFull; FillingStopped after a signal; what was made so far is kept.
    """
    asked = config.model_copy(update={"data": config.data.model_copy(update={"cache": "ahead"})})
    completed, base = complete(asked, during)
    source = open_data(completed, report, during)
    pairs = pairs_of(completed, source, None)
    order = order_of(completed, source, base, pairs)
    with during("Loading PyTorch"):
        from everstep.models.arithmetic import arithmetic
        from everstep.models.registry import open_family
        from everstep.train.caching import framer_of, root_of
        from everstep.train.stop import StopSignals
    with StopSignals(report) as signals:
        with during("Loading the base"):
            family = open_family(base, arithmetic(completed.compute), completed.compute)
        _, found = framer_of(
            completed, family, source, order, pairs, report, during, lambda: signals.received is not None
        )
    assert found is not None, "it was asked for"
    return Cached(
        folder=root_of(completed.data),
        pairs=len(source),
        made=found.made,
        bytes=sum(shelf.size_bytes for shelf in found.framer.shelves),
        root=found.root or "",
    )
