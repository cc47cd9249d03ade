"""The program's entry: finds the verb, and turns what was raised into a sentence and an exit code.

Imports no verb until it is asked for, so that help and listings answer at once.
"""

import contextlib
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from cyclopts.config import Env

from everstep import __version__
from everstep.cli.variables import refuse_unknown_variables, with_variable
from everstep.errors import EverstepError, ExitCode
from everstep.keeping.signals import outlast_warnings
from everstep.places import refused
from everstep.telling import NOBODY_READS, Outlet, occupy_standard_descriptors, part_from_broken_streams, why

VERBS = {
    "train": "Start a training, or go on with it: the same line starts and restarts.",
    "resume": "Go on with a run, with changes on purpose where --set says so.",
    "keep": "Start a program of your own under a keeper: everstep keep -- python loop.py.",
    "plan": "What a training would be, and what it takes, measured without starting it.",
    "status": "Whether a run is alive, where it is, and what would be lost now.",
    "watch": "A page on which runs are seen, compared and steered.",
    "report": "Write a run's page as one HTML file, to send or to keep.",
    "list": "The versions of a run.",
    "show": "One version whole: how it was made, and what is in it.",
    "verify": "Read a version, or all of a run, and check every digest.",
    "diff": "Two versions side by side: settings, data, base, lineage, scores, and weights by block.",
    "compare": "Draw the same held-out pairs with several versions: one contact sheet and one table.",
    "sample": "Draw a picture with a version.",
    "export": "Write a version's ControlNet for another program, and read it back.",
    "import": "Take over a ControlNet that another program made, whatever its format.",
    "score": "Measure whether versions obey their condition.",
    "reproduce": "Draw a version's contact sheet again and compare.",
    "replay": "Train from the version before again, beside the run, and compare every bit.",
    "mirror": "Copies of a run's versions in another place, which outlive this disk.",
    "save": "Let a running training commit a version now.",
    "stop": "Let a running training finish its step, commit and end.",
    "label": "Give a version a name of its own, or a note.",
    "pin": "Keep a version whatever the policies say.",
    "slim": "Drop what only a resume needs from a version.",
    "prune": "Let versions go that no policy of the run keeps.",
    "cache": "Encode pictures and prompts once, ahead of the trainings that use them.",
    "check": "Check a folder of pairs before it is trained on.",
}
PARTS = {"mirror": ("send", "status", "verify", "pull")}  # the first is meant where none is said
MODULES = {"import": "importing"}  # no module may have the name of a statement
SHORT_FLAGS = {
    "--base": "--base.path",
    "--data": "--data.path",
    "--from": "--optim.start-from",
    "--ram-dir": "--keeper.ram-dir",
    "--ranks": "--compute.ranks",
    "--restarts": "--keeper.restarts",
    "--unattended": "--keeper.unattended-minutes",
}
TRAINING = (["train"], ["resume"])  # what these print is only told; of all other verbs it is what they are for
SETTLED = (["train"], ["plan"], ["cache"], ["resume"])  # a slip in a variable must not be met by one who only looks
EPILOGUE = (
    "RUN is a name in runs/, or a path. RUN@N is its version N; RUN@latest and RUN@-2 count from the end.\n\n"
    f"In short: {', '.join(f'{short} for {flag}' for short, flag in SHORT_FLAGS.items())}.\n\n"
    "Exit codes: 0 done or already complete, 1 a check found a fault, 2 wrong input, 3 stopped and resumable, "
    "4 stopped by a full or failing disk and resumable, 5 training became non-finite, 70 a bug of ours."
)


def build_app() -> App:
    """The program with all its verbs."""
    app = App(
        name="everstep",
        help="Trains ControlNets and never loses a step.",
        help_epilogue=EPILOGUE,
        version=__version__,
        config=[Env("EVERSTEP_", command=False)],
    )
    for verb, sentence in VERBS.items():
        if verb in PARTS:
            app.command(_parted(verb, sentence))
            continue
        app.command(f"everstep.cli.{MODULES.get(verb, verb)}:{verb}_", name=verb, help=sentence)
    return app


def _parted(verb: str, sentence: str) -> App:
    """A verb that has verbs of its own."""
    parted = App(name=verb, help=sentence)
    for part in PARTS[verb]:
        parted.command(f"everstep.cli.{verb}:{part}_", name=part)
    return parted


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and leave with its exit code, whatever has become of its standard streams."""
    occupy_standard_descriptors()
    outlast_warnings()
    code = run(list(sys.argv[1:] if arguments is None else arguments))
    part_from_broken_streams(sys.stdout, sys.stderr)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code. A line that stdout or stderr does not take raises nothing in it."""
    out, err = Outlet.of(sys.stdout), Outlet.of(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _run(arguments)
        out.flush()
        if code == ExitCode.DONE and arguments[:1] not in TRAINING and (error := _missed(out)) is not None:
            print(f"What this command had to say could not be written ({why(error)}).", file=sys.stderr)
            code = ExitCode.DISK_FULL
        err.flush()
    return code


def _missed(out: Outlet) -> Exception | None:
    """Why lines that somebody waits for could not be written: a full disk, not a reader who had enough."""
    error = out.refused
    return None if isinstance(error, OSError) and error.errno in NOBODY_READS else error


def _run(arguments: list[str]) -> int:
    """Whatever is not an EverstepError is a bug and shows its trace."""
    try:
        if arguments[:1] in SETTLED:
            refuse_unknown_variables(os.environ)
        code = build_app()(
            _spelled_out(arguments), exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        print(_in_words(error), file=sys.stderr)
        return ExitCode.WRONG_INPUT
    except EverstepError as error:
        sys.stdout.flush()
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.STOPPED
    except Exception as error:
        if isinstance(error, OSError) and (told := refused(error)) is not None:
            print(told, file=sys.stderr)
            return told.exit_code
        import traceback

        traceback.print_exc()
        print("\nThis is a bug in Everstep; versions on disk are whole.", file=sys.stderr)
        return ExitCode.BUG
    return int(code or 0)


def _in_words(error: CycloptsError) -> str:
    """What is wrong with a command line."""
    if type(error.__cause__).__name__ == "ValidationError":  # pydantic's; importing it here would slow every command
        from everstep.config.load import explain

        lines = explain(error.__cause__).splitlines()  # type: ignore[arg-type]
        return "\n".join([*(with_variable(line, os.environ) for line in lines), "Nothing was started."])
    return str(error)


def _spelled_out(arguments: list[str]) -> list[str]:
    """Short flags as the settings that they stand for, which only verbs that take settings have; and the part of a verb
    that is meant where none is said.
    """
    flags = SHORT_FLAGS if arguments[:1] in (["train"], ["plan"], ["cache"]) else {}
    spelled = []
    parts = PARTS.get(arguments[0], ()) if arguments else ()
    if parts and arguments[1:] and arguments[1] not in (*parts, "--help", "-h"):
        arguments = [arguments[0], parts[0], *arguments[1:]]
    for argument in arguments:
        flag, sign, value = argument.partition("=")
        spelled.append(flags.get(flag, flag) + sign + value)
    return spelled
