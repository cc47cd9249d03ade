"""What several ranks are worth on this machine's processors, and what keeping and committing their state costs.

    python bench/ranks.py [--parts rates,keeping,commit] [--seconds 40]

Trainings are real ones, started as users start them, each alone, in turns; their rate is that of the steady state. Of
GPUs nothing is said here: ranks share two processors.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, launch_agent

from commit import ROUNDS, committed, draft, make_state, retire, settle
from everstep.keeping.arena import PlannedFile, plan_arena
from everstep.keeping.channel import Channel
from everstep.keeping.committer import Committer
from everstep.keeping.followers import Follower
from everstep.keeping.link import Link
from everstep.keeping.memory import release, take_memory
from everstep.keeping.others import Neighbours, Others
from everstep.keeping.settings import Settings
from everstep.keeping.snapshots import Snapshots, notes_bytes
from everstep.keeping.stateful import Layout
from everstep.keeping.team import Order, Team
from everstep.train.state import TrainState
from everstep.versions import Run
from machine import record

TURNS, COMMIT_TURNS = 3, 5
WARM_STEPS = 15
SLOTS = 2  # of 4.34 GB, beside the state itself
ADDRESS = f"\0everstep-bench-{os.getpid()}"
TRAINING = (
    *("--optim.batch-size", "32", "--data.resolution", "64", "--optim.max-steps", "1000000"),
    *("--versions.every", "1000000", "--sampling.pairs", "0", "--scoring.overhead", "0"),
)


def main() -> None:
    """Measure, and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="rates,keeping,commit")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--small", action="store_true", help="a small network, to try the script")
    asked = parser.parse_args()
    text = ""
    if "rates" in asked.parts:
        text += rates(asked.seconds)
    if "keeping" in asked.parts:
        text += keeping(asked.seconds)
    if "commit" in asked.parts:
        text += commits(asked.small)
    record("Several ranks on one machine (bench/ranks.py)", text)


# --- trainings -----------------------------------------------------------------------------------------------


def rates(seconds: float) -> str:
    """Images a second of two ranks with one thread each, against one with two."""
    found: dict[str, list[float]] = {"one": [], "two": []}
    for _ in range(TURNS):
        found["one"].append(rate("--ranks", "1", "--compute.threads", "2", seconds=seconds))
        found["two"].append(rate("--ranks", "2", "--compute.threads", "1", seconds=seconds))
        print(json.dumps({name: round(values[-1], 1) for name, values in found.items()}), flush=True)
    return (
        f"circles, 64 px, batch 32, images/s: one rank of two threads {told(found['one'])}, two ranks of one thread "
        f"{told(found['two'])}; ratio {ratio(found['two'], found['one']):.2f} (asked: 0.9).\n\n"
    )


def keeping(seconds: float) -> str:
    """Images a second of four ranks whose state is copied into memory, against four whose is not."""
    found: dict[str, list[float]] = {"off": [], "auto": []}
    for _ in range(TURNS):
        for snapshots, values in found.items():
            more = ("--ranks", "4", "--compute.threads", "1", "--keeper.snapshots", snapshots)
            values.append(rate(*more, seconds=seconds))
        print(json.dumps({name: round(values[-1], 1) for name, values in found.items()}), flush=True)
    return (
        f"Four ranks of one thread on two processors, images/s: kept in memory {told(found['auto'])}, not kept "
        f"{told(found['off'])}; ratio {ratio(found['auto'], found['off']):.3f} (asked: 0.99).\n\n"
    )


def rate(*more: str, seconds: float) -> float:
    """Of a training that is started, warm, and then watched for so long."""
    with tempfile.TemporaryDirectory() as folder:
        surroundings = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        line = [sys.executable, "-m", "everstep", "train", "--run", "a", *TRAINING, *more]
        quiet = subprocess.DEVNULL
        training = subprocess.Popen(line, cwd=folder, stdout=quiet, env=surroundings)
        live = Path(folder) / "runs/a/records/live.json"
        try:
            began, before = wait_for(live, WARM_STEPS, training)
            time.sleep(seconds)
            ended, after = wait_for(live, before + 1, training)
        finally:
            training.send_signal(signal.SIGTERM)
            training.wait()
    return 32 * (after - before) / (ended - began)


def wait_for(live: Path, step: int, training: "subprocess.Popen[bytes]") -> tuple[float, int]:
    """When the training was next seen at a step that is new, and at which."""
    seen = None
    while True:
        assert training.poll() is None, "the training has ended"
        try:
            now = int(json.loads(live.read_text())["step"])
        except (OSError, ValueError):
            now = 0
        if seen is not None and now > seen and now >= step:
            return time.perf_counter(), now
        seen = now
        time.sleep(0.002)


# --- commits -------------------------------------------------------------------------------------------------


def commits(is_small: bool) -> str:
    """From the beginning of a copy until the disk has it, of one rank and of two that share the copy."""
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    state = make_state(is_small)
    size = Layout(state).size_bytes
    place = Path("build/bench/ranks").resolve()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for turn in range(COMMIT_TURNS):
        for ranks in (1, 2) if turn % 2 == 0 else (2, 1):  # what drifts meets both alike
            found[ranks].append(committed_by(ranks, state, place / f"{turn}-{ranks}"))
            shutil.rmtree(place / f"{turn}-{ranks}")
    waits, durables = ({ranks: [one[at] for one in found[ranks]] for ranks in found} for at in (0, 1))
    return (
        f"{size / 1e9:.2f} GB, {COMMIT_TURNS} turns of each, medians of {ROUNDS} versions: training waits for the copy "
        f"{told(waits[1], 2)} s with one rank (two threads), {told(waits[2], 2)} s with two (one thread each); on the "
        f"disk after {told(durables[1], 2)} s and {told(durables[2], 2)} s: two take "
        f"{ratio(durables[2], durables[1]):.2f} times as long (asked: not longer).\n"
    )


def committed_by(ranks: int, state: TrainState, folder: Path) -> tuple[float, float]:
    """Seconds that training waits, and until the disk has it. The state is forked: ranks hold the same memory."""
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id="bench",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            start_method="fork",
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        found = launch_agent(config, rank_of, [state, folder])[0]
    return float(found[0]), float(found[1])


def rank_of(state: TrainState, folder: Path) -> tuple[float, float]:
    """One process of those that hold the state."""
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(2 // ranks)
    with socket.socket(socket.AF_UNIX) as met:
        if rank == 0:
            met.bind(ADDRESS + str(ranks))
            met.listen()
        distributed.init_process_group("gloo")
        team = Team(rank, ranks)
        if rank > 0:
            met.connect(ADDRESS + str(ranks))
            follow(team, Follower(rank, ranks, state, Channel(met), print))
            return 0.0, 0.0
        channels = [Channel(met.accept()[0]) for _ in range(ranks - 1)]
        found = lead(state, folder, Others(team, Neighbours(channels)) if channels else None)
        team.order(Order.END)
        return found


def follow(team: Team, copies: Follower) -> None:
    """Copy when it is told to."""
    while (heard := team.hear()).order is not Order.END:
        if heard.order is Order.ATTACH:
            copies.attach(team)
        else:
            copies.copy(team, *heard.facts[:3])


def lead(state: TrainState, folder: Path, others: Others | None) -> tuple[float, float]:
    """Copies that become versions, in the steady state."""
    run, layout = Run.create(folder, "a: 1\n"), Layout(state)
    planned = [PlannedFile(image.path, image.size_bytes) for image in layout.images]
    taken = take_memory(
        lambda slots: plan_arena(run.path, planned, notes_bytes(layout, 1 << 16), slots), None, (SLOTS,)
    )
    assert taken.arena is not None
    keeper, trainer = Channel.pair()
    wake = threading.Event()
    committer = Committer(run, taken.arena, wake.set, retire, print)
    snapshots = Snapshots(taken.arena, state, layout, Link(trainer), Settings(copying="blocking"), print, others)
    stalls, durables = list[float](), list[float]()
    for number in range(SLOTS + ROUNDS):
        began = time.perf_counter()
        snapshots.take(draft(state), claimed=True)
        stall = time.perf_counter() - began
        committed(committer, keeper, wake)
        durable = time.perf_counter() - began
        settle(committer, wake)
        if number >= SLOTS:
            stalls.append(stall)
            durables.append(durable)
            print(json.dumps({"stall": round(stall, 3), "durable": round(durable, 3)}), flush=True)
    snapshots.wait()
    for _ in committer.finish():
        pass
    release(taken.arena)
    return statistics.median(stalls), statistics.median(durables)


def told(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Of runs that followed each other."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
