"""everstep cache"""

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from everstep.cli.printing import beside, print_json
from everstep.config.load import resolve
from everstep.config.schema import Config
from everstep.units import size


def cache_(
    data: str | None = None,
    *,
    config: str | None = None,
    set: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    settings: Annotated[Config | None, Parameter(name="*")] = None,
    json: bool = False,
) -> int:
    """Encode pictures and prompts ahead of a training with --data.cache ahead. Can be ended and called again.

    Parameters
    ----------
    data
        The pairs, as --data takes them.
    config
        YAML file of settings, the hparams.yaml of a run, or the name of a preset.
    set
        key=value, any setting by its dotted name; may be given several times.
    json
        Print as JSON.
    """
    overlay = {} if settings is None else settings.model_dump(mode="json", exclude_unset=True)
    if data is not None:
        overlay = {**overlay, "data": {**overlay.get("data", {}), "path": data}}
    resolved = resolve(config, overlay, set)
    from everstep.launch.caching import cache

    found = cache(resolved, (lambda text: None) if json else print, beside)
    if json:
        print_json({**asdict(found), "folder": str(found.folder)})
    else:
        made = f"Encoded {found.made:,} pictures and prompts" if found.made else "Nothing was missing"
        print(f"{made}: {found.pairs:,} pairs are cached, {size(found.bytes)} in {found.folder}.")
    return 0
