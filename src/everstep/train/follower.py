"""A rank that is not the first: does with its part of every batch, and its share of every copy, what the first orders.

Decides nothing, writes nothing, and says only what goes wrong with it alone.
"""

import signal
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache

from everstep.contracts import Report
from everstep.data import BatchStream, PatientSource, StopAsked
from everstep.errors import DataUnreadable
from everstep.evaluation.helping import Helper
from everstep.evaluation.scorer import example_settings, examples_of
from everstep.keeping.flag import Flag
from everstep.keeping.followers import Copying
from everstep.keeping.signals import STOP
from everstep.keeping.stateful import Stateful
from everstep.keeping.team import Heard, Order, Team, Trouble
from everstep.telling import untold
from everstep.train.caching import framer_of
from everstep.train.gradients import Shared
from everstep.train.ready import Ready, order_of, pairs_of
from everstep.train.session import batches_of, state_of
from everstep.train.sharding import family_of
from everstep.train.step import take_step
from everstep.train.together import Prepared, SharedOrder, TeamRounds
from everstep.train.wanted import until_asked

Copies = Callable[[Stateful, Report], Copying]  # this process's part in copies of a state


def follow(ready: Ready, team: Team, copies: Copies, asked: Flag | None = None) -> int:
    """Until the first one ends the training. Returns 0. Raises: RankLost, and what a training raises.

    Args:
        asked: up once this machine is asked to stop, where it is not the first one's.
    """

    def say(text: str) -> None:
        print(f"Rank {team.rank}: {text}", flush=True)

    with ExitStack() as closing:
        following = _Following(ready, team, copies, asked, say, closing)
        while following.obey(team.hear(following.trouble())):
            pass
    return 0


class _Following:
    """What a rank holds, and what it does at each order."""

    def __init__(
        self, ready: Ready, team: Team, copies: Copies, asked: Flag | None, say: Report, closing: ExitStack
    ) -> None:
        self._team = team
        self._ready, self._optim, self._asked, self._say = ready, ready.config.optim, asked, say
        self._is_asked_to_stop = False
        for number in STOP:  # asked of the first one; here only a wait for data hears of it
            signal.signal(number, self._note)
        family = family_of(ready, team)
        source = PatientSource(ready.source, say, self._is_asked)
        pairs = pairs_of(ready.config, ready.source, ready.version)
        order = order_of(ready.config, ready.source, ready.base, pairs)
        team.told(None)  # the first one fills the cache
        framer, cache = framer_of(ready.config, family, source, order, pairs, say, untold)
        if cache is not None:
            closing.callback(cache.framer.close)
        self._state, _ = state_of(ready, family)
        self._copies = copies(self._state, say)
        closing.callback(self._copies.close)
        self._gradients = Shared(family, self._state.controlnet, self._optim, team)
        mine, state = SharedOrder(order, team.rank, team.size), self._state
        self._open: Callable[[], BatchStream] = lambda: batches_of(
            ready, framer, mine, source.is_stopped, family, state, pairs
        )
        settings = example_settings(ready.config, family)
        examples = lru_cache(lambda: examples_of(family, ready.config, framer, pairs, settings))
        helper = Helper(family, ready.config, framer, examples)
        self._rounds = TeamRounds(
            team, self._state.controlnet, self._gradients.is_whole, until_asked(ready.config, self._is_asked)
        )
        self._rounds.do = helper.piece
        self._closing = closing
        self._batches: Prepared | None = None
        closing.callback(source.close)

    def _note(self, number: int, frame: object) -> None:
        self._is_asked_to_stop = True

    @property
    def _is_taken_away(self) -> bool:
        """Whether this machine is asked to stop, which only its ranks can let the first one know."""
        return self._asked is not None and self._asked.is_up

    def _is_asked(self) -> bool:
        """This process, or this machine, to stop."""
        return self._is_asked_to_stop or self._is_taken_away

    def trouble(self) -> Trouble:
        """Make ready for the next step, once there are steps; returns why that cannot be."""
        if self._batches is None:
            return Trouble.NONE
        try:
            if self._is_taken_away:
                return Trouble.ASKED
            self._batches.prepare()
        except StopAsked:
            return Trouble.ASKED if self._is_taken_away else Trouble.STOPPED
        except DataUnreadable as error:
            self._say(str(error))
            return Trouble.UNREADABLE
        return Trouble.NONE

    def obey(self, heard: Heard) -> bool:
        """Whether there is more to come."""
        if heard.order is Order.STEP and heard.trouble is Trouble.NONE:
            assert self._batches is not None
            take_step(self._optim, self._gradients, self._state, self._batches)
        elif heard.order is Order.ATTACH:
            self._copies.attach(self._team)
        elif heard.order is Order.RESTORE:
            self._restore()
        elif heard.order is Order.COPY:
            self._copies.copy(self._team, *heard.facts[:3])
        elif heard.order is Order.SHARE:
            with self._state.averaged():
                self._rounds.take_part()
        return heard.order is not Order.END

    def _restore(self) -> None:
        """What the version holds, if one is gone on from; then batches can be begun."""
        if self._ready.version is not None:
            self._state.restore(self._ready.version, self._copies.arena)
        stream = self._open()
        self._closing.callback(stream.close)
        self._batches = Prepared(stream, self._optim.accumulation_steps)
