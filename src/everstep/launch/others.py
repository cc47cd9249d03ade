"""What the first machine calls the others with: what they need to train along, and to fetch.

Never imports torch.
"""

from collections.abc import Callable

from everstep.config.load import dump
from everstep.errors import UserError
from everstep.keeping.signals import Listening
from everstep.keeping.words import Facts
from everstep.launch.calling import Caller, Launch
from everstep.mirror.following import Following
from everstep.train.progress import Reporter
from everstep.train.ready import Ready
from everstep.train.retiring import mirrors_of
from everstep.versions.layout import identity_of


def caller_of(launch: Launch, ready: Ready, signals: Listening, reporter: Reporter) -> Caller:
    """Raises: UserError."""
    ranks = ready.config.compute.ranks
    if isinstance(ranks, str):
        raise UserError("Several machines need a number of ranks each: --ranks N. Nothing was started.")

    def is_stopped() -> bool:
        return signals.stop is not None

    send = _sending(launch, ready)
    return Caller(ready.run.layout, launch, ranks, reporter.say, reporter.during, is_stopped, send)


def _sending(launch: Launch, ready: Ready) -> Callable[[], str]:
    """Brings the mirror in which machines meet up to date, on the terms of the settings where it is one of theirs."""
    if launch.relay is None:
        return lambda: ""
    target, run = launch.relay.target, ready.run
    mirrors = mirrors_of(ready.config) if target in ready.config.mirror.targets else Following([target])
    return lambda: mirrors(run)


def facts_of(ready: Ready) -> Facts:
    """What other machines need, and compare."""
    version = ready.version
    return {
        "version": None if version is None else version.number,
        "step": -1 if version is None else version.step,
        "digest": None if version is None else version.manifest_digest,
        "identity": identity_of(ready.run.path),
        "bytes": 0 if version is None else version.size_bytes,
        "base": ready.base_digest,
        "data": ready.source.fingerprint(),
        "hparams": dump(ready.config),
    }
