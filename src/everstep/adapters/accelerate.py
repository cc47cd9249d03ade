"""A loop on Hugging Face's Accelerate, kept: versions, snapshots that survive kill -9, exact resume.

from everstep.adapters import accelerate as everstep

model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
kept = everstep.keep(accelerator, "mine", settings=vars(args))
loader = kept.loader(loader)
step = kept.step

A step is an optimizer's step. It is done when the loop asks for its next batch: only then are schedules, averages and
logs behind it, whatever the loop does between.
"""

import atexit
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from everstep.adapters.loading import Ordered
from everstep.adapters.telling import as_yaml, batch_size_of, data_of, groups_of, plain
from everstep.contracts import Reason, Report
from everstep.errors import UserError
from everstep.keeping import generators
from everstep.keeping.kept import Kept
from everstep.keeping.parts import HasState, Parts
from everstep.keeping.settings import Settings
from everstep.keeping.terms import Auto, Terms, refuse_ranks

OF_ACCELERATOR = ("mixed_precision", "gradient_accumulation_steps", "num_processes")


def keep(
    accelerator: Any,
    run: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    every: int | Auto | None = 300,
    every_s: float | None = None,
    keeping: Settings | None = None,
    report: Report | None = None,
) -> "KeptLoop":
    """Keep what the accelerator has prepared; whatever the run holds already is put back.

    Args:
        accelerator: of one process, after `prepare`: models, optimizers, schedules, and what
            `register_for_checkpointing` was told.
        run: a name in runs/, or a path; made if it is not there.
        settings: for hparams.yaml, as `vars(args)`, beside those of the accelerator and the optimizers.
        max_steps: optimizer steps at the end, where that is known; a run that has made them gets no more batches.
        seed: of the order of the data, see `KeptLoop.loader`.
        every, every_s: optimizer steps, seconds between versions; every="auto" finds what costs least time.
        keeping: how often snapshots are taken, where their memory is.

    Raises: UserError if nothing was prepared, several processes train, another process writes the run, or its versions
    are of other parts.
    """
    refuse_ranks(accelerator.num_processes)
    if not accelerator._models or not accelerator._optimizers:
        raise UserError("Nothing was prepared: keep() comes after accelerator.prepare(model, optimizer, ...).")
    told = {
        **plain(dict(settings or {})),
        "accelerator": {name: plain(getattr(accelerator, name)) for name in OF_ACCELERATOR},
        "optimizers": [groups_of(prepared.optimizer) for prepared in accelerator._optimizers],
        "data": [data_of(loader) for loader in accelerator._dataloaders],
    }
    terms = Terms.of(run, as_yaml(told), (every, every_s), keeping, report, about="training by Accelerate")
    return KeptLoop(accelerator, terms, max_steps, seed)


class KeptLoop:
    """A loop that is kept. It ends with `accelerator.end_training()`, or with the program."""

    def __init__(self, accelerator: Any, terms: Terms, max_steps: int | None, seed: int) -> None:
        self._accelerator, self._terms, self._seed, self._images = accelerator, terms, seed, 0
        self._order, self._max_steps = _Order(), max_steps
        self._has_stepped = False
        self._between: tuple[dict[str, Any], dict[str, int]] | None = None  # draws and order after the last step
        self._parts = self._taken()
        self._kept = Kept(terms, self._parts)
        self._version = self._kept.connect()
        self._kept.attach()
        self._kept.begin(max_steps)
        self._hooks = [held.optimizer.register_step_post_hook(self._stepped) for held in accelerator._optimizers]
        self._end_training: Callable[[], Any] = accelerator.end_training
        self._load: Callable[..., Any] = accelerator.load_state
        accelerator.end_training = self._ended
        accelerator.save_state, accelerator.load_state = self._save_state, self._load_state
        # Before pools of threads are shut down, of which one copies the state: atexit comes after that.
        getattr(threading, "_register_atexit", atexit.register)(self._at_exit)

    @property
    def step(self) -> int:
        """Optimizer steps that have been done."""
        return self._kept.step

    @property
    def _is_complete(self) -> bool:
        """Scripts ask after a step whether it was the last: started again, they would make one more each time."""
        return self._max_steps is not None and self.step >= self._max_steps

    @property
    def kept(self) -> Kept:
        """For `kept.save("label")`, `kept.stop()`, `kept.changing()`."""
        return self._kept

    def loader(self, loader: "DataLoader[Any]") -> "Batches":
        """The same data in an order that a resume finds again, from where it was. Call it once, for the training's.

        Raises: UserError for a dataset that is only iterated.
        """
        if self._order.loader is not None:
            raise UserError("loader() was called before: one loader is the training's.")
        ordered = Ordered(loader, self._seed, self._accelerator.prepare_data_loader)
        self._order.give(ordered)
        return Batches(self, ordered)

    def _taken(self) -> Parts:
        held, names = self._accelerator, ("weights", "optimizer", "schedule", "other")
        models = [held.unwrap_model(model) for model in held._models]
        steppers = [prepared.optimizer for prepared in held._optimizers]
        schedules = [getattr(prepared, "scheduler", prepared) for prepared in held._schedulers]
        of_others = [*([] if held.scaler is None else [held.scaler]), *held._custom_objects]
        modules, *others = (
            {f"{name}_{number}" if number else name: one for number, one in enumerate(several)}
            for name, several in zip(names, (models, steppers, schedules, of_others), strict=True)
        )
        every: dict[str, HasState] = {"order": self._order}
        for some in reversed(others):  # optimizers first: schedulers look at them
            every = {**some, **every}
        return Parts(modules, every, {})

    # --- steps -----------------------------------------------------------------------------------------------

    def _stepped(self, *_: Any) -> None:
        self._has_stepped = True

    def begin(self) -> bool:
        """Before the first batch of an epoch: whether there shall be one."""
        if self._version is not None and self._version.step == self._kept.step > 0:
            self._parts.count_from(self._version)  # what was drawn since keep() was not drawn then
        return self._kept.is_open and self._kept.ended is None and not self._is_complete

    def see(self, batch: Any) -> None:
        """It is handed over."""
        self._images += batch_size_of(batch)

    def between(self) -> bool:
        """Between a batch and the next: whether there shall be one."""
        if self._is_step_done():
            self._count()
        return self._kept.ended is None

    def _is_step_done(self) -> bool:
        """A scaler that found no finite gradients leaves a step out, which all count nevertheless."""
        held = self._accelerator
        return self._has_stepped or (held.sync_gradients and any(one.step_was_skipped for one in held._optimizers))

    def _count(self) -> None:
        self._has_stepped, images, self._images = False, self._images, 0
        self._kept.stepped(images)
        self._between = generators.states(), self._order.state_dict()

    def left(self) -> None:
        """The data ended early, since somebody asked for it. Raises: KeyboardInterrupt after Ctrl-C."""
        self.finish()
        if self._kept.take_interrupt():
            raise KeyboardInterrupt

    def finish(self, reason: Reason = Reason.FINAL) -> None:
        """The last state becomes a version, and everything is let go. More than once is once."""
        if not self._kept.is_open:
            return
        if self._has_stepped:
            self._count()
        self._kept.finish(reason)
        self._let_go()

    def _let_go(self, error: BaseException | None = None) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._kept.close(error)

    def _at_exit(self) -> None:
        """Of a program that ended with an error nobody knows in what state it left things; one that left by itself, by
        sys.exit say, has made all steps if as many as it told.
        """
        error = getattr(sys, "last_value", None)
        if error is None:
            if self._images and not self._has_stepped and self._between is not None:
                self._take_back(*self._between)
            self.finish(Reason.FINAL if self._max_steps is None or self._is_complete else Reason.ASKED)
        elif self._kept.is_open:
            self._let_go(error)

    def _take_back(self, drawn: dict[str, Any], order: dict[str, int]) -> None:
        """The batches of a step that was not made are handed over again, and drawn for as they were."""
        generators.restore(drawn)
        self._order.go_back(order)

    # --- what scripts call -----------------------------------------------------------------------------------

    def _ended(self) -> None:
        self.finish()
        self._end_training()

    def _save_state(self, output_dir: Any = None, *_: Any, **__: Any) -> str:
        """A version, with the folder's name as its label, when the step is done; there is no such folder."""
        self._kept.save(None if output_dir is None else Path(str(output_dir)).name)
        return str(self._terms.folder)

    def _load_state(self, input_dir: Any = None, *given: Any, **named: Any) -> None:
        """Of a run that begins, Accelerate's own; a run that goes on has put back its newest version already."""
        if self._version is not None:
            return self._terms.report(f"{input_dir} was not loaded: the run goes on from {self._version.name}.")
        with self._kept.changing():
            self._load(input_dir, *given, **named)
        self._terms.report(f"{input_dir} was loaded; steps are counted from {self.step} on.")


class _Order:
    """The state of the loader, which comes after everything else was put back."""

    def __init__(self) -> None:
        self.loader: Ordered | None = None
        self._state: dict[str, int] = {"epoch": 0, "position": 0}

    def give(self, loader: Ordered) -> None:
        loader.load_state_dict(self._state)
        self.loader = loader

    def state_dict(self) -> dict[str, int]:
        return self._state if self.loader is None else self.loader.state_dict()

    def load_state_dict(self, state: Any, /) -> None:
        self._state = dict(state)

    def go_back(self, state: dict[str, int]) -> None:
        """For the last version of a program that hands over no more batches."""
        self._state, self.loader = state, None


class Batches:
    """The training's batches, as the loop iterates them: an epoch each time."""

    def __init__(self, loop: KeptLoop, loader: Ordered) -> None:
        self._loop, self._loader = loop, loader
        self.dataset, self.batch_size = loader.dataset, loader.batch_size

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        """Ends early where somebody asks the training to stop. Raises: KeyboardInterrupt after Ctrl-C."""
        if not self._loop.begin():
            return
        for batch in self._loader:
            self._loop.see(batch)
            yield batch
            if not self._loop.between():
                self._loop.left()
                return
