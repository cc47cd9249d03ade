"""A Lightning training, kept: versions, snapshots that survive kill -9, and a resume that goes on where it was.

from everstep.adapters import lightning as everstep

trainer = Trainer(..., callbacks=[everstep.keep("mine")])
trainer.fit(model, loader, ckpt_path="last")

For `lightning` and `pytorch_lightning`, of 2.x: their classes are different ones, so ours are made for the one in use.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from everstep.adapters.loading import after_epoch
from everstep.adapters.telling import batch_size_of, hparams_of
from everstep.contracts import Reason, Report
from everstep.errors import UserError
from everstep.keeping.kept import Kept
from everstep.keeping.parts import Parts, states_of
from everstep.keeping.settings import Settings
from everstep.keeping.terms import Auto, Terms, refuse_ranks
from everstep.versions import Run, Version
from everstep.versions.layout import MANIFEST

WEIGHTS, REST = "weights", "lightning"
PACKAGES = ("lightning.pytorch", "pytorch_lightning")
# Of what Lightning dumps, what is kept as parts of its own; and what it needs for nothing but a class's arguments.
APART = ("state_dict", "optimizer_states", "lr_schedulers")
ARGUMENTS = (
    "hparams_name",
    "hyper_parameters",
    "hparams_type",
    "datamodule_hparams_name",
    "datamodule_hyper_parameters",
)


def keep(
    run: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    every: int | Auto | None = 300,
    every_s: float | None = None,
    keeping: Settings | None = None,
    report: Report | None = None,
) -> Any:
    """A callback that keeps what `Trainer.fit` trains; `fit(ckpt_path="last")` goes on from the newest whole version.

    Args:
        run: a name in runs/, or a path; made if it is not there.
        settings: for hparams.yaml, beside those of module, trainer, optimizers and data, which are found.
        every, every_s: optimizer steps, seconds between versions; every="auto" finds what costs least time.
        keeping: how often snapshots are taken, where their memory is.

    Raises: UserError if Lightning is not installed.
    """
    terms = Terms.of(run, "", (every, every_s), keeping, report, about="training by Lightning")
    return _classes(_package())[0](terms, dict(settings or {}))


def _package() -> str:
    """Of the two, the one that the program has loaded."""
    for name in PACKAGES:
        if name in sys.modules:
            return name
    for name in PACKAGES:
        try:
            import_module(name)
        except ModuleNotFoundError:
            continue
        return name
    raise UserError("Lightning is not installed. pip install lightning gets it.")


@cache
def _classes(package: str) -> tuple[Any, Any]:
    """The callback, and what reads versions in the place of checkpoints, for one of the two packages."""
    on_exception = import_module(f"{package}.callbacks").OnExceptionCheckpoint
    checkpoint_io = import_module(f"{package}.plugins.io").CheckpointIO

    class Keep(on_exception):  # type: ignore[misc, valid-type]
        """See `keep`. Is a checkpoint callback, so that Lightning adds none of its own and asks it for the last one."""

        def __init__(self, terms: Terms, settings: dict[str, Any]) -> None:
            super().__init__(str(terms.folder))
            self._keeping = _Keeping(terms, settings)

        @property
        def kept(self) -> Kept:
            """For `kept.save("label")`, `kept.stop()`, `kept.changing()`."""
            return self._keeping.kept

        @property
        def ckpt_path(self) -> str | None:
            """The version to go on from; None for a run that begins."""
            version = self._keeping.newest()
            return None if version is None else str(version.path)

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            refuse_ranks(trainer.world_size)
            if not isinstance(trainer.strategy.checkpoint_io, VersionIO):
                trainer.strategy.checkpoint_io = VersionIO(trainer.strategy.checkpoint_io)

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self._keeping.begin(trainer, pl_module)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self._keeping.see(batch)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self._keeping.end(trainer)

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self._keeping.fail(exception)

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            self._keeping.close()

        def state_dict(self) -> dict[str, Any]:
            return {}

    class VersionIO(checkpoint_io):  # type: ignore[misc, valid-type]
        """Reads versions; everything else is what it was."""

        def __init__(self, other: Any) -> None:
            self._other = other

        def load_checkpoint(self, path: Any, *given: Any, **named: Any) -> Any:
            if not is_version(path):
                return self._other.load_checkpoint(path, *given, **named)
            return checkpoint_of(path)

        def save_checkpoint(self, *given: Any, **named: Any) -> None:
            self._other.save_checkpoint(*given, **named)

        def remove_checkpoint(self, path: Any) -> None:
            if not is_version(path):
                self._other.remove_checkpoint(path)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._other, name)

    return Keep, VersionIO


def is_version(path: Any) -> bool:
    """Whether a folder is a version, and no checkpoint or log folder of Lightning's that is named like one."""
    return (Path(str(path)) / MANIFEST).is_file()


def checkpoint_of(path: Path | str) -> dict[str, Any]:
    """A version as Lightning's checkpoint, every digest verified. Raises: DamageFound; UserError for one of another."""
    path = Path(path)
    version = Run.open(path.parent).version(int(path.name.rpartition("_")[2]))
    state = states_of(version)
    if REST not in state:
        raise UserError(f"{path} was not made by a training of Lightning's.")
    optimizers = sorted((name for name in state if name.startswith("optimizer_")), key=_number)
    schedules = sorted((name for name in state if name.startswith("schedule_")), key=_number)
    return {
        **state[REST],
        "state_dict": state[WEIGHTS],
        "optimizer_states": [state[name] for name in optimizers],
        "lr_schedulers": [state[name] for name in schedules],
    }


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])


def _unordered(trainer: Any) -> list[str]:
    """What cannot be found again when it goes on within an epoch."""
    loaders = trainer.train_dataloader
    every = loaders if isinstance(loaders, list | tuple) else [loaders]
    if all(hasattr(loader, "load_state_dict") for loader in every):
        return []
    return [
        "A resume within an epoch begins that epoch's data anew: Lightning cannot find the order of a DataLoader "
        "again. everstep.adapters.loading.ordered(loader) makes one that it can."
    ]


class _Rest:
    """What Lightning dumps of its loops, callbacks, data and scaler.

    Of its loops as they were after the last batch: none of its own resumes takes up rightly what they are when a
    training has ended.
    """

    def __init__(self, trainer: Any) -> None:
        self._connector, self._fit_loop = trainer._checkpoint_connector, trainer.fit_loop
        self.note()

    def note(self) -> None:
        """A batch is done."""
        self._loops = self._connector._get_loops_state_dict()
        if self._fit_loop.epoch_loop._num_ready_batches_reached():  # limit_train_batches too ends an epoch
            loop = self._loops["fit_loop"]["state_dict"]
            loop["combined_loader"] = list(map(after_epoch, loop.get("combined_loader", [])))

    def state_dict(self) -> dict[str, Any]:
        dumped: dict[str, Any] = self._connector.dump_checkpoint(weights_only=False)
        kept = {key: value for key, value in dumped.items() if key not in (*APART, *ARGUMENTS)}
        return {**kept, "loops": self._loops}

    def load_state_dict(self, state: Any, /) -> None:
        """Lightning puts it back itself."""


class _Keeping:
    """Between Lightning's hooks and a kept loop."""

    def __init__(self, terms: Terms, settings: dict[str, Any]) -> None:
        self._terms, self._settings = terms, settings
        self.kept = Kept(terms)
        self._version: Version | None = None
        self._is_connected = self._is_attached = False
        self._steps = self._images = 0
        self._hook: Any = None
        self._trainer: Any = None
        self._module: Any = None

    def __deepcopy__(self, memo: Any) -> "_Keeping":
        """A module that is copied while it is trained, for an average, has a hook that leads here."""
        return self

    def newest(self) -> Version | None:
        """What there is to go on from. Raises: UserError if another process writes the run."""
        if not self._is_connected and Run.exists(self._terms.folder):
            self._connect()
        return self._version

    def _connect(self) -> None:
        self.kept = Kept(self._terms)
        self._version, self._is_connected = self.kept.connect(), True

    def begin(self, trainer: Any, module: Any) -> None:
        """Everything is there and put back, and nothing has been trained yet."""
        self._terms = replace(self._terms, hparams=hparams_of(trainer, module, self._settings))
        self._check_origin(trainer)
        if not self._is_connected:
            self._connect()
        for sentence in _unordered(trainer):
            self._terms.report(sentence)
        stepping = {f"optimizer_{number}": optimizer for number, optimizer in enumerate(trainer.optimizers)}
        schedules = {f"schedule_{n}": config.scheduler for n, config in enumerate(trainer.lr_scheduler_configs)}
        self._rest = _Rest(trainer)
        parts = Parts({WEIGHTS: module}, {**stepping, **schedules, REST: self._rest}, {})
        self.kept.attach(parts, self._terms, is_restored=True)
        self._is_attached = True
        self.kept.begin(trainer.max_steps if trainer.max_steps > 0 else None)
        self._steps = trainer.global_step
        self._trainer, self._module = trainer, module
        # The module's own hook is called after all callbacks', and may change what is kept: an average of weights, say.
        self._hook = module.on_train_batch_end
        module.on_train_batch_end = self._after_batch

    def _check_origin(self, trainer: Any) -> None:
        """Raises: UserError if Lightning goes on from something else than the run's newest version."""
        version, path = self.newest(), trainer.ckpt_path
        if version is not None and (path is None or Path(path) != version.path):
            told = "from the beginning" if path is None else f"from {path}"
            raise UserError(
                f"{self._terms.folder} goes on from {version.name} (step {version.step:,}), but this training begins "
                f'{told}. Nothing was changed. fit(ckpt_path="last") goes on; another run begins anew.'
            )

    def see(self, batch: Any) -> None:
        self._images += batch_size_of(batch)

    def _after_batch(self, *given: Any) -> Any:
        result = self._hook(*given)
        if self._trainer.global_step != self._steps:
            self._rest.note()
            self._steps, images, self._images = self._trainer.global_step, self._images, 0
            if self.kept.stepped(images) is not None:
                self._trainer.should_stop = True
        return result

    def end(self, trainer: Any) -> None:
        """Raises: KeyboardInterrupt where Ctrl-C ended it, which Lightning takes as it always does."""
        if not self._is_attached:
            return
        self.kept.finish(Reason.EARLY if trainer.should_stop else Reason.FINAL)
        is_interrupted = self.kept.take_interrupt()
        self.close()
        if is_interrupted:
            raise KeyboardInterrupt

    def fail(self, error: BaseException) -> None:
        """Lightning's own end at SIGTERM is after a whole step; of any other nobody knows what state it left."""
        if self._is_attached and type(error).__name__ == "SIGTERMException":
            self.kept.finish(Reason.SIGNAL)
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        if self._hook is not None:
            self._hook = None
            del self._module.on_train_batch_end  # what its class has is called again
        if self._is_connected:
            self.kept.close(error)
        self._is_connected = self._is_attached = False
