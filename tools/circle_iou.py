"""How well a version obeys the outline, on builtin:circles: the mean intersection over union on held-out pairs.

    python tools/circle_iou.py quickstart@latest
    python tools/circle_iou.py quickstart@0

Draws the first --pairs held-out pairs of the run, none of which was trained on, and compares the drawn circle with the
disk inside of the outline (everstep.data.layouts.circles.circle_iou).
"""

import argparse
import json

import numpy as np

from everstep.cli.place import open_version
from everstep.config.policy import framing
from everstep.data import Framer, open_source, split
from everstep.data.layouts import circles
from everstep.evaluation.loading import config_of, load
from everstep.evaluation.pictures.draw import draw, shown_pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="RUN@N")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    _, version = open_version(asked.version)
    config = config_of(version)
    if config.data.path != "builtin:circles" or config.data.resolution is None:
        parser.error(f"{asked.version} was trained on {config.data.path}; this measures builtin:circles")
    source = open_source("builtin:circles", config.data.resolution)
    numbers = split(source, config.data.held_out_pairs).held_out[: asked.pairs]
    family, controlnet = load(version, config)
    drawn = draw(family, controlnet, shown_pairs(Framer(source, framing(config.data)), numbers), config.sampling)
    ious = [circles.circle_iou(pixels, circles.circle(number)) for pixels, number in zip(drawn, numbers, strict=True)]
    if asked.json:
        print(
            json.dumps({"version": version.name, "step": version.step, "pairs": len(ious), "iou": float(np.mean(ious))})
        )
        return
    print(f"{version.name}, step {version.step:,}: mean IoU {np.mean(ious):.3f} over {len(ious)} held-out pairs")


if __name__ == "__main__":
    main()
