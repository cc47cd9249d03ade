"""everstep mirror"""

from pathlib import Path
from typing import TypeVar

from everstep.cli import verify
from everstep.cli.place import open_run
from everstep.cli.printing import beside, print_json, print_table
from everstep.config.amounts import Bytes
from everstep.config.policy import mirror_policy
from everstep.config.thinning import Thinning
from everstep.errors import ExitCode, UserError
from everstep.mirror.addresses import is_address, name_at, place_at, place_of
from everstep.mirror.backend import Place
from everstep.mirror.copies import Terms, send
from everstep.mirror.fetching import fetch, is_mirror
from everstep.mirror.offered import faults_in, offer, versions_in
from everstep.mirror.rate import Rate
from everstep.places import as_word, spelled
from everstep.units import size

Kind = TypeVar("Kind", Bytes, Thinning)


def send_(
    run: str,
    target: str,
    *,
    slim: bool = False,
    rate: str | None = None,
    keep: str = str(Thinning()),
    anew: bool = False,
    wait: bool = False,
    json: bool = False,
) -> int:
    """Send every committed version that is not there yet, data first, the manifest last. Exit 1 if one is damaged.

    Parameters
    ----------
    run
        RUN, which may be trained meanwhile.
    target
        A folder, s3://BUCKET/PATH, sftp://USER@HOST/PATH or hf://OWNER/NAME. The copies go to a folder in it that is
        named as the run.
    slim
        Without what only an exact resume needs: a third of the bytes.
    rate
        The most that is sent in a second, as 20MB.
    keep
        Which versions the mirror keeps: everything, or rules as last 5, daily 7, every 6h; others go from it.
    anew
        Also where copies were sent before and none is any more, as on a disk that was emptied; else that is refused.
    wait
        Until another one that sends there is done; else that is refused.
    json
        Print as JSON.
    """
    opened = open_run(run)
    place = _place(target, opened.name)
    policy = mirror_policy(_parsed("--keep", Thinning, keep), opened.best_score())
    terms = Terms(slim, anew, wait, _rate(rate), policy)
    with beside(f"Sending {opened.name} to {place.address}", count=size) as said:
        outcome = send(opened, place, terms, print, said)
    if json:
        print_json(
            {
                "place": place.address,
                "sent": outcome.sent,
                "there": outcome.there,
                "passed": outcome.passed,
                "dropped": outcome.dropped,
                "up_to": outcome.up_to,
            }
        )
    else:
        for number, why in outcome.damaged:
            print(f"version_{number} is damaged and was not sent: {why}")
        if outcome.dropped:
            print(f"Dropped there: {', '.join(f'version_{number}' for number in outcome.dropped)}.")
        newest = "nothing is there" if outcome.up_to is None else f"mirrored up to version_{outcome.up_to}"
        print(f"{len(outcome.sent)} sent, {len(outcome.there)} there before; {newest} in {place.address}.")
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


def verify_(mirror: str, *, rate: str | None = None, json: bool = False) -> int:
    """Read every copy whole and check every digest; exit 1 where one fails.

    Parameters
    ----------
    mirror
        Of one run's copies: TARGET/RUN.
    rate
        The most that is read in a second from an address, as 20MB.
    json
        Print as JSON.
    """
    place = _mirror(mirror)
    if not is_address(mirror):
        return verify.verify_(place.address, json=json)
    limit, there = _rate(rate), offer(place)
    faults: list[dict[str, str | None]] = [
        {"version": f"version_{number}", "what": why} for number, why in there.damaged.items()
    ]
    for number, offered in there.whole.items():
        with beside(f"Reading version_{number}"):
            found = faults_in(place, offered, limit)
        faults += [{"version": f"version_{number}", "file": f.file, "tensor": f.tensor, "what": f.what} for f in found]
        if not json:
            print(f"version_{number}: {'damaged' if found else 'whole'}")
    if json:
        print_json({"checked": [f"version_{number}" for number in there.whole], "faults": faults})
    else:
        for fault in faults:
            print("  " + ": ".join(str(part) for part in fault.values() if part))
    return ExitCode.FAULT_FOUND if faults else ExitCode.DONE


def pull_(mirror: str, *, to: Path | None = None, version: tuple[int, ...] = (), rate: str | None = None) -> int:
    """Fetch a run from its copies: read whole on the way, under its name only then.

    Parameters
    ----------
    mirror
        Of one run's copies: TARGET/RUN.
    to
        The run's folder here; left out, runs/ and its name.
    version
        A version's number, once or more; left out, all.
    rate
        The most that is fetched in a second, as 20MB.
    """
    place, name = _mirror(mirror), name_at(mirror)
    root = to or Path("runs") / name
    with beside(f"Fetching {name}", count=size) as said:
        came = fetch(place, root, list(version) or None, said, _rate(rate))
    names = ", ".join(f"version_{number}" for number in came) or "nothing that was not there"
    print(f"{names} fetched to {root}. It goes on with: everstep resume {as_word(root)}")
    return ExitCode.DONE


def _place(target: str, name: str) -> Place:
    if not is_address(target) and not spelled(target).is_dir():
        folder = spelled(target).absolute()
        raise UserError(f"There is no folder {folder} to mirror to. Nothing was sent; mkdir makes one.")
    return place_of(target, name)


def _mirror(words: str) -> Place:
    place = place_at(words)
    if not is_mirror(place):
        raise UserError(f"{place.address} holds no copies of a run; they lie in TARGET/RUN. Nothing was changed.")
    return place


def _rate(words: str | None) -> Rate:
    limit = None if words is None else _parsed("--rate", Bytes, words).total
    if limit == 0:
        raise UserError("--rate 0 would send nothing. Nothing was sent; left out, there is no limit.")
    return Rate(limit)


def _parsed(flag: str, kind: type[Kind], words: str) -> Kind:
    try:
        return kind.parse(words)
    except ValueError as error:
        raise UserError(f"{flag}: {error}. Nothing was sent.") from None
