"""Few pairs: when does a training learn them by heart, does the program say so, and what would be kept of it?

    python bench/small.py [--sets 200,1000,5000] [--seed 0] [--folder build/bench/small]

Figures of a few thin lines before a ground that the lines say nothing of (bench/verdict_data.py), trained with the
program itself, the quickstart's preset at batch 4 and half its rate: so many pairs, held-out ones apart as always, the
same steps for all. Every version is measured: benefit on held-out pairs against benefit on pairs that are trained on,
and what was said of it then. What it has is kept in FOLDER, and it goes on from there.
"""

import argparse
from pathlib import Path

from everstep.evaluation.paired import paired_test
from everstep.records.scores import points
from everstep.records.verdict import is_worn_out, line_of, verdict
from everstep.versions import Run
from machine import record
from verdict import SLOWER, Came, Row, kept

PATIENCE, STEPS, EVERY, BATCH = 3, 700, 100, 4


def main() -> None:
    """Train what is not kept yet, and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="200,1000,5000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("build/bench/small"))
    asked = parser.parse_args()
    parts = []
    for count in map(int, asked.sets.split(",")):
        row = Row(f"{count} pairs", "pose own", "told", STEPS, EVERY, batch=BATCH, settings=SLOWER, count=count)
        came = kept(asked.folder.resolve(), row, asked.seed)
        run = Run.open(asked.folder.resolve() / "runs" / f"{row.word}-{asked.seed}")
        parts.append(told(row, came, run))
        print(parts[-1], flush=True)
    record(
        "Few pairs: learned, or learned by heart? (bench/small.py)",
        f"Seed {asked.seed}, batch {BATCH}, rate 3e-3. Benefit is the share of the base's error that is gone.\n\n"
        + "\n\n".join(parts),
    )


def told(row: Row, came: Came, run: Run) -> str:
    """What was measured and said, version by version, and what patience would have kept."""
    head = ("step", "times each pair", "gain", "benefit, held out", "benefit, trained on", "said")
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ("---:",) * 5 + ("---",))]
    line, paired = line_of(points(run)), paired_test(run)
    trained = row.count - line[-1].gain.pairs
    for one in came.said:
        times = f"{one.step * row.batch / trained:,.1f}"
        benefit = f"{one.benefit:z.3f} ({one.benefit_low:z.3f} to {one.benefit_high:z.3f})"
        cells = (f"{one.step:,}", times, f"{one.gain:.3f}", benefit, f"{one.seen_benefit:z.3f}", one.sentence)
        lines.append(f"| {' | '.join(cells)} |")
    over_fit = next((one.step for one in came.said if one.sentence.startswith("over-fitting")), None)
    ended = next((count for count in range(1, len(line) + 1) if is_worn_out(line[:count], PATIENCE)), None)
    said = "Over-fitting was never said." if over_fit is None else f"Over-fitting was first said at step {over_fit:,}."
    best = f"RUN@best is version_{came.best} (step {came.said[came.best].step:,})."
    if ended is None:
        kept_of_it = f"`scoring.patience={PATIENCE}` would not have ended it."
    else:
        then = verdict(line[:ended], row.batch, paired)
        kept_of_it = (
            f"`scoring.patience={PATIENCE}` would have ended it at step {line[ended - 1].step:,}, "
            f"with version_{then.best} as the best."
        )
    title = f"**{row.count:,} pairs**, {line[-1].gain.pairs} of them held out."
    return f"{title} {said} {best} {kept_of_it}\n\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
