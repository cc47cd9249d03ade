"""everstep status"""

from typing import Any

from everstep.cli.place import open_run
from everstep.cli.printing import print_facts, print_json
from everstep.keeping.memory import Found
from everstep.keeping.remnants import in_words, sentence
from everstep.units import about, duration, size
from everstep.versions import RunStatus
from everstep.watching.remembered import RememberedRun
from everstep.watching.standing import standing

STALE_S = 30.0  # it writes twice a second, but for the first step and while it measures a version


def status_(run: str, *, json: bool = False) -> int:
    """Whether a run is alive, where it is, and what would be lost now.

    Parameters
    ----------
    json
        Print as JSON.
    """
    now = standing(RememberedRun(open_run(run).path))
    if json:
        print_json(now.as_json())
        return 0
    print_facts({**_facts(now.found), **_control(now.verdict), **_memory(now.memory)})
    for one in now.others:
        print(sentence(one))
    return 0


def _control(verdict: dict[str, Any] | None) -> dict[str, str]:
    """Whether the condition is obeyed and whether that helps, in words and in numbers."""
    if verdict is None:
        return {}
    numbers = [
        f"{name} {value:z.3f}"
        for name, value in (("control gain", verdict.get("gain")), ("benefit", verdict.get("benefit")))
        if isinstance(value, float)
    ]
    return {"control": verdict["sentence"], **({"measured": ", ".join(numbers)} if numbers else {})}


def _memory(ours: list[Found]) -> dict[str, str]:
    """A line for each memory of this run; there is rarely more than one."""
    return {f"in memory{'' if number == 1 else f' {number}'}": in_words(one) for number, one in enumerate(ours, 1)}


def _facts(found: RunStatus) -> dict[str, str]:
    state = found.state if found.pid is None else f"{found.state}, process {found.pid} on {found.host}"
    facts = {
        "state": state,
        "step": f"{found.step:,} of {found.max_steps:,}, {found.images_seen:,} images seen",
    }
    if found.told_age_s is not None and found.told_age_s > STALE_S:
        facts["last heard"] = f"{duration(found.told_age_s)} ago; it may be further"
    if found.images_per_second:
        facts["rate"] = f"{found.images_per_second:.1f} images/s"
    if found.seconds_left is not None:
        facts["time left"] = duration(found.seconds_left)
    if found.last_version is not None and found.last_version_age_s is not None:
        age = duration(found.last_version_age_s)
        facts["last version"] = f"{found.last_version}, {age} ago, {found.last_version_path}"
    if found.next_version_step is not None or found.next_version_in_s is not None:
        facts["next version"] = _next(found)
    facts["at risk now"] = f"{found.steps_at_risk:,} steps"
    facts["on disk"] = f"{size(found.version_bytes)} in versions, {size(found.free_bytes)} free"
    if found.state != "complete":
        facts["disk"] = _forecast(found)
    return facts


def _next(found: RunStatus) -> str:
    """at step 600, in 42 s; or, where time decides: in about 4 min, one every 12 min: ..."""
    soon_s = found.next_version_in_s
    if found.next_version_step is not None:
        return f"at step {found.next_version_step:,}" + ("" if soon_s is None else f", in {duration(soon_s)}")
    assert soon_s is not None, "one of them is known"
    often = found.versions_every_s
    return f"in about {about(soon_s)}" + ("" if often is None else f", one every {about(often)}: {found.versions_why}")


def _forecast(found: RunStatus) -> str:
    after = found.disk_full_after_versions
    if after is None:
        return f"does not get full: the policy lets versions take {size(found.disk_peak_bytes)} at most"
    if found.disk_full_in_s is None:
        return f"full after {after:,} more versions"
    return f"full in {duration(found.disk_full_in_s)} at this rate, after {after:,} more versions"
