"""everstep status"""

from dataclasses import asdict

from everstep.cli.place import open_run
from everstep.cli.printing import print_facts, print_json
from everstep.config import read_hparams
from everstep.train.progress import duration
from everstep.versions import RunStatus, status
from everstep.versions.units import size


def status_(run: str, *, json: bool = False) -> int:
    """Whether a run is alive, where it is, and what would be lost now.

    Parameters
    ----------
    json
        Print as JSON.
    """
    opened = open_run(run)
    found = status(opened, read_hparams(opened.layout.hparams).optim.max_steps)
    if json:
        print_json(asdict(found))
    else:
        print_facts(_facts(found))
    return 0


def _facts(found: RunStatus) -> dict[str, str]:
    state = found.state if found.pid is None else f"{found.state}, process {found.pid} on {found.host}"
    facts = {
        "state": state,
        "step": f"{found.step:,} of {found.max_steps:,}, {found.images_seen:,} images seen",
    }
    if found.images_per_second:
        facts["rate"] = f"{found.images_per_second:.1f} images/s"
    if found.last_version is not None and found.last_version_age_s is not None:
        age = duration(found.last_version_age_s)
        facts["last version"] = f"{found.last_version}, {age} ago, {found.last_version_path}"
    if found.next_version_step is not None:
        facts["next version"] = f"at step {found.next_version_step:,}"
    facts["at risk now"] = f"{found.steps_at_risk:,} steps"
    facts["on disk"] = f"{size(found.version_bytes)} in versions, {size(found.free_bytes)} free"
    return facts
