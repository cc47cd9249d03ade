"""Pictures that cannot be read for a moment: real files that go, come back, or are half written."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from everstep.contracts import ExampleSettings, Framing
from everstep.data import BatchStream, Framer, PatientSource, Source, StopAsked, open_source, split
from everstep.errors import DataUnreadable

SETTINGS = ExampleSettings(seed=3, latent_shape=(4, 8, 8))


def framed(source):
    return Framer(source, Framing(16))


@pytest.fixture
def folder(pairs_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pairs_folder, tmp_path / "pairs")


@pytest.fixture
def source(folder: Path) -> Source:
    return open_source(str(folder), 16)


class Sayings(list[str]):
    """What is said; the first sentence wakes whoever waits for it."""

    def __init__(self) -> None:
        self.first = threading.Event()

    def __call__(self, sentence: str) -> None:
        self.append(sentence)
        self.first.set()


@pytest.fixture
def said() -> Sayings:
    return Sayings()


@pytest.mark.parametrize("harm", ["gone", "cut", "empty", "no picture"])
@pytest.mark.parametrize("workers", [0, 3])
def test_what_comes_back_is_read_as_if_nothing_had_been(
    folder: Path, source: Source, said: Sayings, harm: str, workers: int
) -> None:
    training = split(source, 2).training
    straight = BatchStream(framed(source), training, 0, 4, SETTINGS, workers=0)
    wanted = [next(straight) for _ in range(7)]
    whole = shutil.copytree(folder, folder.with_name("whole"))
    for path in folder.glob("*.png"):
        content = path.read_bytes()
        path.write_bytes({"cut": content[: len(content) // 2], "no picture": b"<html>"}.get(harm, b""))
        if harm == "gone":
            path.unlink()

    def mend() -> None:
        said.first.wait()
        folder.rename(folder.with_name("harmed"))
        whole.rename(folder)

    mending = threading.Thread(target=mend)
    mending.start()
    patient = PatientSource(source, said)
    stream = BatchStream(framed(patient), training, 0, 4, SETTINGS, workers)
    found = [next(stream) for _ in range(7)]
    patient.close()
    stream.close()
    mending.join()
    for one, other in zip(found, wanted, strict=True):
        assert one.pairs == other.pairs
        np.testing.assert_array_equal(one.targets_BHWC, other.targets_BHWC)
    assert len(said) == 2
    assert "Training waits for it, up to 1 min" in said[0]
    assert said[1].startswith("Waited ")


@pytest.mark.parametrize("workers", [0, 3])
def test_what_stays_away_is_named_and_ends_with_4(folder: Path, source: Source, said: Sayings, workers: int) -> None:
    for path in folder.glob("*_outline.png"):
        path.unlink()
    patient = PatientSource(source, said, patience_s=0.3)
    stream = BatchStream(framed(patient), split(source, 2).training, 0, 4, SETTINGS, workers)
    with pytest.raises(DataUnreadable, match=r"outline\.png could be read .*No such file.* can be resumed") as raised:
        next(stream)
    patient.close()
    stream.close()
    assert raised.value.exit_code == 4


@pytest.mark.parametrize("workers", [0, 3])
def test_a_stop_ends_the_waiting(folder: Path, source: Source, said: Sayings, workers: int) -> None:
    shutil.rmtree(folder)
    patient = PatientSource(source, said, is_stopped=said.first.is_set, patience_s=10**6)
    stream = BatchStream(
        framed(patient), split(source, 2).training, 0, 4, SETTINGS, workers, is_stopped=said.first.is_set
    )
    with pytest.raises(StopAsked):
        next(stream)
    patient.close()
    stream.close()


def test_a_disk_that_hangs_holds_up_neither_a_stop_nor_the_end(folder: Path, source: Source, said: Sayings) -> None:
    shutil.rmtree(folder)
    patient = PatientSource(source, said, patience_s=10**6)  # its threads hear of no stop, as in a read that hangs
    stream = BatchStream(framed(patient), split(source, 2).training, 0, 4, SETTINGS, 3, is_stopped=said.first.is_set)
    with pytest.raises(StopAsked):
        next(stream)
    assert any(thread.name.startswith("everstep-data") for thread in threading.enumerate())
    stream.close()
    patient.close()  # lets the threads go
