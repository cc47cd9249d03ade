"""everstep status"""

from dataclasses import asdict
from typing import Any

from everstep.cli.place import open_run, settings_of
from everstep.cli.printing import print_facts, print_json
from everstep.config.policy import course
from everstep.keeping.memory import Found
from everstep.keeping.remnants import as_json, forgotten, in_words, of_run, sentence
from everstep.records.scores import latest_verdict
from everstep.units import duration, size
from everstep.versions import Run, RunStatus, read_live, status
from everstep.versions.forecast import Course

STALE_S = 30.0  # it writes twice a second, but for the first step and while it measures a version


def status_(run: str, *, json: bool = False) -> int:
    """Whether a run is alive, where it is, and what would be lost now.

    Parameters
    ----------
    json
        Print as JSON.
    """
    opened = open_run(run)
    going, ram_dir = _course(opened)
    found, verdict = status(opened, going), latest_verdict(opened)
    ours, others = of_run(opened, ram_dir), forgotten(opened, ram_dir)
    if json:
        print_json(
            {
                **asdict(found),
                **_control_json(verdict),
                "memory": [as_json(one, one in ours) for one in (*ours, *others)],
            }
        )
        return 0
    print_facts({**_facts(found), **_control(verdict), **_memory(ours)})
    for one in others:
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


def _control_json(verdict: dict[str, Any] | None) -> dict[str, Any]:
    found = verdict or {}
    return {"control": found.get("sentence"), "control_gain": found.get("gain"), "benefit": found.get("benefit")}


def _memory(ours: list[Found]) -> dict[str, str]:
    """A line for each memory of this run; there is rarely more than one."""
    return {f"in memory{'' if number == 1 else f' {number}'}": in_words(one) for number, one in enumerate(ours, 1)}


def _course(run: Run) -> tuple[Course, str | None]:
    """Where it goes and its ram_dir by its settings; a loop that is not ours tells where it goes."""
    settings = settings_of(run)
    if settings is not None:
        return course(settings), settings.keeper.ram_dir
    live = read_live(run.layout)
    if live is None:
        return Course(max_steps=0), None
    return Course(max_steps=live.max_steps, images_per_step=max(1, live.images_seen // max(1, live.step))), None


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
    if found.next_version_step is not None:
        when = "" if found.next_version_in_s is None else f", in {duration(found.next_version_in_s)}"
        facts["next version"] = f"at step {found.next_version_step:,}{when}"
    facts["at risk now"] = f"{found.steps_at_risk:,} steps"
    facts["on disk"] = f"{size(found.version_bytes)} in versions, {size(found.free_bytes)} free"
    if found.state != "complete":
        facts["disk"] = _forecast(found)
    return facts


def _forecast(found: RunStatus) -> str:
    after = found.disk_full_after_versions
    if after is None:
        return f"does not get full: the policy lets versions take {size(found.disk_peak_bytes)} at most"
    if found.disk_full_in_s is None:
        return f"full after {after:,} more versions"
    return f"full in {duration(found.disk_full_in_s)} at this rate, after {after:,} more versions"
