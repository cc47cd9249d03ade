"""Draws what the page asks for: a process of its own, with PyTorch, that leaves when nobody has asked for a while.

    python -m everstep.evaluation.trying [--device cpu]

One JSON object a line, in and out. In: run, version, condition (a picture's bytes in base64), prompt, made (whether the
condition is made of it), sampling (settings of it that are not the run's). Out, for each: lines of done and total, then
one with png and condition (as the network was given it; both in base64) and facts, or with error.
"""

import argparse
import base64
import io
import json
import os
import select
import sys
from typing import IO, Any

from PIL import Image

from everstep.data.images import BLACK, decode_content
from everstep.errors import EverstepError, UserError
from everstep.places import spelled
from everstep.priority import lower_session, lower_thread
from everstep.versions import Run

IDLE_S = 120.0  # networks of several gigabytes are not held for nobody


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="another one than the run's")
    parser.add_argument("--idle", type=float, default=IDLE_S, help="seconds after which it leaves")
    asked = parser.parse_args()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    lower_thread()  # behind a training
    lower_session()
    from everstep.evaluation.pictures.single import Drawer

    drawer = Drawer(asked.device)
    while line := _next_line(asked.idle):
        try:
            _tell(out, _drawn(drawer, json.loads(line), out))
        except EverstepError as error:
            _tell(out, {"error": str(error)})
        except BrokenPipeError:  # nobody waits for it any more
            return


def _next_line(idle_s: float) -> bytes:
    """Empty where nobody will ask any more, or nobody has for so long."""
    is_asked, _, _ = select.select([0], [], [], idle_s)
    return sys.stdin.buffer.readline() if is_asked else b""


def _drawn(drawer: Any, asked: dict[str, Any], out: IO[str]) -> dict[str, Any]:
    version = Run.open(spelled(asked["run"])).find(str(asked["version"]))
    try:
        condition = decode_content(base64.b64decode(asked["condition"]), BLACK)
    except Exception as error:
        raise UserError(f"The condition is no image that can be read ({error}).") from None

    def said(done: int, total: int) -> None:
        _tell(out, {"done": done, "total": total})

    drawn = drawer.draw(
        version, condition, asked["prompt"], asked["sampling"], makes_condition=asked["made"], said=said
    )
    return {"png": _png(drawn.picture), "condition": _png(drawn.condition), "facts": drawn.facts}


def _png(picture: Image.Image) -> str:
    kept = io.BytesIO()
    picture.save(kept, "PNG")
    return base64.b64encode(kept.getvalue()).decode()


def _tell(out: IO[str], fact: dict[str, Any]) -> None:
    out.write(f"{json.dumps(fact)}\n")
    out.flush()


if __name__ == "__main__":
    main()
