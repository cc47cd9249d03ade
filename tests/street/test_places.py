"""Places and machines: read-only, without a home, with odd names, with less than usual. Each works, or one sentence
says why; looking never needs to write.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from drafts import draft

from everstep.versions import Run
from program import Ended
from street import Everstep, Row, Street, Words, read_golden, walk

TABLE = "places"
PROGRAM = (sys.executable, "-c", "from everstep.cli.main import main; main()")
# Words before a command that put it elsewhere. A shell's "$@" is the command itself.
STRANGER = 54321  # a user without a name; he may read all and write nothing that is not his
AS_STRANGER = (
    *(
        "setpriv",
        f"--reuid={STRANGER}",
        f"--regid={STRANGER}",
        "--clear-groups",
        "--bounding-set=-all,+dac_read_search",
    ),
    *(
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
        "env",
        "-u",
        "HOME",
        "-u",
        "USER",
        "-u",
        "LOGNAME",
    ),
)


def shell(script: str) -> Words:
    return ("bash", "-c", f'{script}exec "$@"', "bash")


READ_ONLY = ("unshare", "-m", *shell("mount --bind . . && mount -o remount,ro,bind . && cd . && "))
SMALL_SHM = ("unshare", "-m", *shell("mount -t tmpfs -o size=64k,noexec none /dev/shm && "))
NO_PROC = ("unshare", "-m", *shell("mount -t tmpfs none /proc && "))
GONE = shell('mkdir gone && cd gone && rmdir "$PWD" && ')
CLOSED = ("bash", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "bash")
MASKED = ("setpriv", "--bounding-set=-all", *shell("umask 777; "))
SLOW = ("nice", "-n12", *AS_STRANGER)
ASCII = (
    "env",
    "LC_ALL=POSIX",
    "PYTHONUTF8=0",
    "PYTHONCOERCECLOCALE=0",
    "PYTHONIOENCODING=ascii",
    "TERM=dumb",
    "COLUMNS=1",
)
NOT_TEXT = os.fsdecode(b"caf\xe9")  # a name in Latin 1


@dataclass(frozen=True)
class Place:
    """Where a row's command is run: behind these words, or as all others are."""

    row: Row
    before: Words = ()

    def __call__(self, street: Street, everstep: Everstep) -> Everstep:
        """Runs the first command there, and those that follow as usual."""
        calls: list[Words] = []

        def call(*words: object) -> Ended:
            calls.append(words)
            return elsewhere(self.before, street, words) if self.before and len(calls) == 1 else everstep(*words)

        return call


def elsewhere(before: Words, street: Street, words: Sequence[object]) -> Ended:
    """Run the program behind other words; where the machine has not what they need the test is left out."""
    command = [os.fsencode(str(word)) for word in (*before, *PROGRAM, *words)]
    tried = [*map(str, before), "true"]
    try:
        possible = subprocess.run(tried, cwd=street.folder, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"{error.filename} is not here")
    if possible.returncode != 0:
        pytest.skip(f"{' '.join(tried)}: {possible.stderr.strip()}")
    ended = subprocess.run(
        command, cwd=street.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240, check=False
    )
    return Ended(ended.returncode, ended.stdout.decode(errors="replace"))


# --- what is there -------------------------------------------------------------------------------------------


def run_in(folder: Path) -> Path:
    """A run with two versions, at steps 0 and 10."""
    made = Run.create(folder, "a: 1\n")
    for step in (0, 10):
        made.commit(draft(step))
    return folder


def words(*typed: object, run: str = "runs/r") -> Callable[[Street], Words]:
    """These, with a run there."""

    def build(street: Street) -> Words:
        run_in(street.folder / run)
        return typed

    return build


def locked_away(*typed: object) -> Callable[[Street], Words]:
    """A copy of a run that was being written when it was made."""

    def build(street: Street) -> Words:
        lock = run_in(street.folder / "runs/r") / ".lock"
        lock.write_text('{"pid": 1, "host": "elsewhere", "started_at": "2026-01-02T03:04:05", "command": "everstep"}')
        lock.chmod(0o444)
        return typed

    return build


def far_away(street: Street) -> Words:
    return ("list", "me@host/runs/r")


def looked_at(street: Street) -> Words:
    return ("list", "r")


def stranger_s(street: Street) -> Words:
    """A small training of somebody who has no name and no home, in a folder of his own, as slow as can be."""
    own = street.folder / "own"
    own.mkdir()
    os.chown(own, STRANGER, STRANGER)
    return with_snapshots(named(street, own / "a"))


def named(street: Street, run: object) -> Words:
    """A small training, under another name than all others."""
    typed = list(street.train())
    typed[typed.index("--run") + 1] = run
    return typed


def with_snapshots(typed: Words) -> Words:
    """A small training with snapshots, which take memory, priority and threads."""
    at = typed.index("--keeper.snapshots")
    return (*typed[:at], *typed[at + 2 :])


def snapped(street: Street) -> Words:
    return with_snapshots(street.train())


def run_named(run: str) -> Callable[[Street], Words]:
    return lambda street: named(street, run)


def trained(*more: object, **brought: object) -> Callable[[Street], Words]:
    return lambda street: street.train(*more, **brought)


def in_folder(name: str, of: str) -> Callable[[Street], Words]:
    """Base or data, in a folder of this name."""

    def build(street: Street) -> Words:
        there = street.folder / name
        there.mkdir()
        return street.train(**{of: shutil.move(getattr(street, "pairs" if of == "data" else of)(), there / "it")})

    return build


def run_is_a_file(street: Street) -> Words:
    (street.folder / "runs").write_text("a note")
    return street.train()


def after_the_note(street: Street) -> Words:
    (street.folder / "runs").unlink()
    return street.train()


def dashed(street: Street) -> Words:
    return [f"--run={word}" if word == "-a" else word for word in named(street, "-a") if word != "--run"]


def at_sign(*typed: str) -> Callable[[Street], Words]:
    """@HERE in what is typed is a folder whose name has an @."""

    def build(street: Street) -> Words:
        run_in(street.folder / "me@host/runs/r")
        return [word.replace("@HERE", str(street.folder / "me@host/runs/r")) for word in typed]

    return build


def at_sign_in_weights(street: Street) -> Words:
    """--from a folder with an @, not RUN@N."""
    street.folder.joinpath("cn@2").mkdir()
    return street.train("--from", street.folder / "cn@2")


HAVE = r"version_1|^version "
ENDS = r"^2 steps of"
NO_SNAPSHOTS = r"^Snapshots"
LONG = "n" * 256
DEEP = "/".join(["n" * 200] * 25)

PLACES = [
    # Looking, on what cannot be written to.
    Place(Row("list_on_a_read_only_disk", words("list", "r"), code=0), READ_ONLY),
    Place(Row("show_on_a_read_only_disk", words("show", "r@1"), code=0, shows="^version "), READ_ONLY),
    Place(Row("status_on_a_read_only_disk", words("status", "r"), code=0, shows="^state"), READ_ONLY),
    Place(Row("verify_on_a_read_only_disk", words("verify", "r"), code=0), READ_ONLY),
    Place(Row("prune_dry_run_on_a_read_only_disk", words("prune", "r", "--dry-run"), code=0, shows="freed"), READ_ONLY),
    Place(Row("list_of_somebody_else_s_run", words("list", "r"), code=0), AS_STRANGER),
    Place(Row("diff_of_somebody_else_s_run", words("diff", "r@0", "r@1"), code=0, shows="identical"), AS_STRANGER),
    Place(Row("status_of_a_copy_with_a_lock", locked_away("status", "r"), code=0, shows="^state"), AS_STRANGER),
    Place(Row("list_without_proc", words("list", "r"), code=0, shows=HAVE), NO_PROC),
    Place(Row("list_on_a_narrow_ascii_terminal", words("list", "größe", run="runs/größe"), code=0), ASCII),
    Place(Row("plan_on_a_read_only_disk", lambda s: ("plan", *s.train()[1:]), code=0, shows="^versions"), READ_ONLY),
    Place(Row("check_on_a_read_only_disk", lambda s: ("check", s.pairs()), code=0), READ_ONLY),
    Place(Row("check_without_a_home", lambda s: ("check", s.pairs()), code=0), (*AS_STRANGER, "-u", "XDG_CACHE_HOME")),
    # Writing, where it cannot be.
    Place(Row("label_on_a_read_only_disk", words("label", "r@1", "good"), right=looked_at), READ_ONLY),
    Place(Row("pin_on_a_read_only_disk", words("pin", "r@1"), right=looked_at), READ_ONLY),
    Place(Row("prune_on_a_read_only_disk", words("prune", "r"), right=looked_at), READ_ONLY),
    Place(Row("slim_on_a_read_only_disk", words("slim", "r@0"), right=looked_at), READ_ONLY),
    Place(Row("label_of_somebody_else_s_run", words("label", "r@1", "good"), right=looked_at), AS_STRANGER),
    Place(Row("prune_of_somebody_else_s_run", words("prune", "r"), right=looked_at), AS_STRANGER),
    Place(Row("train_on_a_read_only_disk", Street.train, shows="made"), READ_ONLY),
    Place(Row("train_where_runs_cannot_be_made", Street.train, shows="made"), AS_STRANGER),
    Place(Row("train_with_a_closing_mask", Street.train, shows="made"), MASKED),
    Place(Row("train_where_runs_is_a_file", run_is_a_file, right=after_the_note, shows="not a folder")),
    # Names.
    Place(Row("an_at_sign_in_the_path_of_a_run", at_sign("list", "@HERE"), code=0)),
    Place(Row("an_at_sign_in_the_path_of_a_version", at_sign("show", "@HERE@1"), code=0, shows="^version ")),
    Place(Row("an_at_sign_in_a_path_that_is_not_there", at_sign("show", "@HERE-2"), right=far_away)),
    Place(Row("an_at_sign_in_the_name_of_a_run", words("list", "r@2", run="runs/r@2"), code=0)),
    Place(Row("an_at_sign_in_the_name_of_a_new_run", run_named("a@2"))),
    Place(Row("an_at_sign_in_the_path_of_a_new_run", run_named("me@host/runs/a"), code=0, shows=ENDS)),
    Place(Row("an_at_sign_in_the_data_s_name", in_folder("set@2x", "data"), code=0, shows=ENDS)),
    Place(Row("an_at_sign_in_the_weights_name", at_sign_in_weights)),
    Place(Row("a_run_with_a_space", run_named("my runs/a b"), code=0, shows=ENDS)),
    Place(Row("a_run_with_a_dash", dashed, code=0, shows=ENDS)),
    Place(Row("a_run_of_a_name_too_long", run_named(LONG))),
    Place(Row("a_run_of_the_longest_name", run_named(LONG[1:]), shows="made")),
    Place(Row("a_run_of_a_path_too_long", run_named(DEEP))),
    Place(Row("list_of_a_name_too_long", words("list", LONG), right=looked_at)),
    Place(Row("a_run_in_a_home_of_nobody", run_named("~nobody-of-this-name/a"))),
    Place(Row("list_in_a_home_of_nobody", words("list", "~nobody-of-this-name/a"), right=looked_at)),
    Place(Row("a_base_in_a_home_of_nobody", trained(base="~nobody-of-this-name/a"))),
    Place(Row("memory_in_a_home_of_nobody", trained("--keeper.ram-dir", "~nobody-of-this-name"))),
    Place(Row("a_run_of_a_name_that_is_no_text", run_named(NOT_TEXT), shows="no text")),
    Place(Row("a_run_in_a_folder_that_is_no_text", run_named(f"./{NOT_TEXT}/a"), code=0, shows=ENDS)),
    Place(Row("a_base_in_a_folder_that_is_no_text", in_folder(NOT_TEXT, "base"))),
    Place(Row("data_in_a_folder_that_is_no_text", in_folder(NOT_TEXT, "data"))),
    # The current folder, standard streams, users.
    Place(Row("list_in_a_folder_that_is_gone", words("list", "r"), right=looked_at), GONE),
    Place(Row("a_whole_path_in_a_folder_that_is_gone", lambda s: ("list", run_in(s.folder / "r")), code=0), GONE),
    Place(Row("train_in_a_folder_that_is_gone", Street.train), GONE),
    Place(Row("train_without_standard_streams", Street.train, code=0), CLOSED),
    Place(Row("train_without_home_and_name_at_nice_12", stranger_s, code=0, shows=ENDS), SLOW),
    # Limits and devices.
    Place(Row("train_with_12_open_files", Street.train), shell("ulimit -n 12; ")),
    Place(Row("train_with_few_addresses", Street.train), shell("ulimit -v 700000; ")),
    Place(Row("train_with_small_files", Street.train), shell("ulimit -f 100; ")),
    Place(Row("train_with_small_shared_memory", snapped, code=0, shows=NO_SNAPSHOTS), SMALL_SHM),
    Place(Row("a_device_that_is_none", trained("--compute.device", "nonsense"))),
    Place(Row("a_device_of_another_kind", trained("--compute.device", "xpu"))),
    Place(Row("a_device_that_is_not_there", trained("--compute.device", "cuda:99"), shows="PyTorch sees"))
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.row.name)
def test_what_is_brought_works_or_one_sentence_says_why(place: Place, street: Street, everstep: Everstep) -> None:
    walk(place.row, TABLE, street, place(street, everstep))


def test_every_message_has_its_row() -> None:
    assert set(read_golden(TABLE)) == {place.row.name for place in PLACES}


def test_what_is_printed_can_be_typed(street: Street, everstep: Everstep) -> None:
    """The command that a run far away, with a space and an @, prints for going on with it."""
    run = street.folder / "my runs@home" / "it is"
    assert everstep(*named(street, run)).code == 0
    said = everstep(*named(street, run)).out
    command = said.partition("More steps: everstep ")[2].splitlines()[0]
    typed = subprocess.run(["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
    ended = everstep(*typed.stdout.splitlines())
    assert ended.code == 0, ended.out
    assert "step 4" in ended.out
