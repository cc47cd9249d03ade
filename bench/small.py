"""Few pairs: when does a training learn them by heart, does the program say so, and what would be kept of it?

    python bench/small.py [--sets 200,1000,5000] [--seed 0] [--folder build/bench/small]

Figures of a few thin lines before a ground that the lines say nothing of (bench/verdict_data.py), trained with the
program itself, the quickstart's preset at batch 8: so many pairs, held-out ones apart as always, the same steps for
all. Every version is measured: benefit on held-out pairs against benefit on pairs that are trained on, and what was
said of it then. What it has is kept in FOLDER, and it goes on from there.
"""

import argparse
from pathlib import Path

from everstep.evaluation.paired import paired_test
from everstep.records.scores import points
from everstep.records.verdict import Control, is_worn_out, line_of, verdict
from everstep.versions import Run
from machine import record
from verdict import Came, Row, kept

PATIENCE, STEPS, EVERY, BATCH = 3, 1500, 125, 8
