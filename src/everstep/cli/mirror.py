"""everstep mirror"""

from pathlib import Path

from everstep.cli import verify
from everstep.cli.place import open_run
from everstep.cli.printing import beside, print_json, print_table
from everstep.errors import ExitCode, UserError
from everstep.mirror.copies import send, versions_in
from everstep.mirror.fetching import fetch, is_mirror
from everstep.mirror.folder import Folder
from everstep.places import as_word, spelled
from everstep.units import size


def send_(
    run: str, target: str, *, slim: bool = False, anew: bool = False, wait: bool = False, json: bool = False
) -> int:
    """Send every committed version that is not there yet, data first, the manifest last. Exit 1 if one is damaged here.

    Parameters
    ----------
    run
        RUN, which may be trained meanwhile.
    target
        A folder: another disk, a mount of another machine. The copies go to a folder in it that is named as the run.
    slim
        Without what only an exact resume needs: a third of the bytes.
    anew
        Also where copies were sent before and none is any more, as on a disk that was emptied; else that is refused.
    wait
        Until another one that sends there is done; else that is refused.
    json
        Print as JSON.
    """
    opened = open_run(run)
    place = _place(target, opened.name)
    with beside(f"Sending {opened.name} to {place.root}", "bytes", size) as said:
        outcome = send(opened, place, slim, print, said, anew, wait)
    if json:
        print_json({"place": str(place.root), "sent": outcome.sent, "there": outcome.there, "up_to": outcome.up_to})
    else:
        for number, why in outcome.damaged:
            print(f"version_{number} is damaged here and was not sent: {why}")
        newest = "nothing is there" if outcome.up_to is None else f"mirrored up to version_{outcome.up_to}"
        print(f"{len(outcome.sent)} sent, {len(outcome.there)} there before; {newest} in {place.root}.")
    return ExitCode.FAULT_FOUND if outcome.damaged else ExitCode.DONE


def status_(run: str, target: str, *, json: bool = False) -> int:
    """Which versions of a run a mirror has, and which it lacks.

    Parameters
    ----------
    json
        Print as JSON.
    """
    opened = open_run(run)
    place = _place(target, opened.name)
    there, here = versions_in(place), {version.number: version for version in opened.versions()}
    rows = [
        {
            "version": number,
            "here": number in here,
            "there": number in there,
            "same": number in here and there.get(number) == here[number].manifest_digest,
        }
        for number in sorted({*there, *here})
    ]
    if json:
        print_json(rows)
        return ExitCode.DONE
    lines = []
    for row in rows:
        is_another = row["here"] and row["there"] and not row["same"]
        copy = "another" if is_another else "yes" if row["there"] else ""
        lines.append((f"version_{row['version']}", "yes" if row["here"] else "", copy))
    print_table(("version", "here", "there"), lines)
    return ExitCode.DONE


def verify_(mirror: str, *, json: bool = False) -> int:
    """Read every copy whole and check every digest; exit 1 where one fails.

    Parameters
    ----------
    mirror
        The folder of one run's copies: TARGET/RUN.
    json
        Print as JSON.
    """
    return verify.verify_(str(_mirror(mirror)), json=json)


def pull_(mirror: str, *, to: Path | None = None, version: tuple[int, ...] = ()) -> int:
    """Fetch a run from its copies: read whole on the way, under its name only then.

    Parameters
    ----------
    mirror
        The folder of one run's copies: TARGET/RUN.
    to
        The run's folder here; left out, runs/ and its name.
    version
        A version's number, once or more; left out, all.
    """
    folder = _mirror(mirror)
    root = to or Path("runs") / folder.name
    with beside(f"Fetching {folder.name}", "bytes", size) as said:
        came = fetch(Folder(folder), root, list(version) or None, said)
    names = ", ".join(f"version_{number}" for number in came) or "nothing that was not there"
    print(f"{names} fetched to {root}. It goes on with: everstep resume {as_word(root)}")
    return ExitCode.DONE


def _place(target: str, name: str) -> Folder:
    if "://" in target:
        raise UserError(f"{target} is an address; a mirror is a folder as yet, a mounted one of another machine too.")
    folder = spelled(target).absolute()
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} to mirror to. Nothing was sent; mkdir makes one.")
    return Folder(folder / name)


def _mirror(words: str) -> Path:
    folder = spelled(words).absolute()
    if not is_mirror(folder):
        raise UserError(f"{folder} holds no copies of a run; they lie in TARGET/RUN. Nothing was changed.")
    return folder
