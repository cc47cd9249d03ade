"""everstep train"""

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from everstep.config.load import resolve
from everstep.config.schema import Config
from everstep.errors import UserError
from everstep.versions import run_folder


def train_(
    config: str | None = None,
    *,
    run: str | None = None,
    set: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    settings: Annotated[Config | None, Parameter(name="*")] = None,
) -> int:
    """Start a training, or go on with it: the same line starts and restarts.

    Parameters
    ----------
    config
        YAML file of settings, the hparams.yaml of a run, or the name of a preset.
    run
        Name of the run, a folder in runs/; left out, the name of the data.
    set
        key=value, any setting by its dotted name; may be given several times.
    """
    overlay = {} if settings is None else settings.model_dump(mode="json", exclude_unset=True)
    resolved = resolve(config, overlay, set)
    name = default_name(resolved) if run is None else run
    from everstep.launch.start import start

    return start(run_folder(name), resolved, _other_run)


def default_name(config: Config) -> str:
    name = Path(config.data.path.removeprefix("builtin:")).name
    if name.endswith((".tar", ".parquet")):  # a pattern of shards too
        name = re.sub(r"[^\w.-]+|-*[{*].*", "", name.rpartition(".")[0])
    if not name:
        raise UserError(f"The run has no name: data.path is {config.data.path!r}. --run NAME gives it one.")
    return name


def _other_run(name: str) -> str:
    """The same command line for another run."""
    words = list(sys.argv[1:])
    if "--run" in words[:-1]:
        words[words.index("--run") + 1] = name
    else:
        words += ["--run", name]
    return "everstep " + shlex.join(words)
