"""What is cached is trained on: exactly again after any end, shared, and made again where it was lost."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from trainers import trainer_of

from disks import fill, small_disk
from everstep.encoded.shard import read_shard, shards_in
from everstep.versions import Run
from law import SETTINGS, KillAfter, outcome
from program import Ended, Program

CENTRED = [
    word for pair in zip(SETTINGS[::2], SETTINGS[1::2], strict=True) for word in pair if "data.crop" not in pair[0]
]


@pytest.fixture
def train(
    tiny_base: Path, pairs_folder: Path, start: Callable[..., Program], workplace: Path
) -> Callable[..., Program]:
    """Begin, or go on, with a cache in the workplace."""

    def begin(
        run: str,
        data: Path = pairs_folder,
        mode: str = "ahead",
        cache: Path = workplace / "cache",
        prepare: Callable[[], None] | None = None,
    ) -> Program:
        words = ("--base", tiny_base, "--data", data, "--data.cache", mode, "--data.cache-folder", cache)
        return start("train", "--run", run, *words, *CENTRED, prepare=prepare)

    return begin


@pytest.fixture(scope="module")
def straight_ahead(tiny_base: Path, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The uninterrupted run over a cache that was filled ahead."""
    folder = tmp_path_factory.mktemp("cached")
    words = ("--base", tiny_base, "--data", pairs_folder, "--data.cache", "ahead", "--data.cache-folder", folder / "c")
    ended_well(Program(("train", "--run", "a", *words, *CENTRED), folder))
    return outcome(folder / "runs/a")


def ended_well(program: Program) -> str:
    assert program.wait() == 0, program.output
    return program.output


@pytest.mark.parametrize("mode", ["ahead", "along"])
def test_the_law_holds_over_a_cache(
    train: Callable[..., Program], workplace: Path, mode: str, straight_ahead: object
) -> None:
    straight = straight_ahead
    if mode == "along":
        ended_well(train("straight", mode=mode))
        straight = outcome(workplace / "runs/straight")
        shutil.rmtree(workplace / "cache")
    assert train("a", mode=mode, prepare=KillAfter(7, signal.SIGKILL)).wait() == 3
    assert train("a", mode=mode, prepare=KillAfter(19, signal.SIGTERM)).wait() == 3
    said = ended_well(train("a", mode=mode))
    assert "not the same" not in said
    assert outcome(workplace / "runs/a") == straight


def test_a_cache_is_made_once_and_shared(
    train: Callable[..., Program], everstep: Callable[..., Ended], tiny_base: Path, pairs_folder: Path, workplace: Path
) -> None:
    words = ("cache", pairs_folder, "--base", tiny_base, "--data.cache-folder", "cache", "--data.flip-probability", 0.5)
    first, again = everstep(*words), everstep(*words, "--json")
    assert first.code == again.code == 0, first.out + again.out
    assert "Encoded" in first.out
    facts = json.loads(again.out[again.out.index("{") :])
    assert (facts["made"], facts["pairs"]) == (0, 30)
    said = ended_well(train("a"))
    assert "Caching" not in said
    manifest = Run.open(workplace / "runs/a").find("latest").manifest
    assert manifest["cache"]["root"] == facts["root"]


def test_two_runs_that_cache_at_once_make_each_picture_once(train: Callable[..., Program], workplace: Path) -> None:
    both = [train("a"), train("b")]
    said = [ended_well(program) for program in both]
    assert sum("Caching" in text for text in said) >= 1
    assert outcome(workplace / "runs/a") == outcome(workplace / "runs/b")
    for shelf in (workplace / "cache").glob("latents-*"):
        keys = [bytes(key) for path in shards_in(shelf) for key in read_shard(path).keys]
        assert len(keys) == len(set(keys)) == 60


def wait_for_the_end_of(pid: int | None) -> None:
    until = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until, "it goes on without its keeper"
        time.sleep(0.05)


class SlowToEncode:
    """So that a signal comes while the cache is filled."""

    def __call__(self) -> None:
        from everstep.encoded.framer import CachedFramer
        from everstep.train import filling

        original = CachedFramer.keep

        def slowly(framer: Any, *given: Any) -> Any:
            time.sleep(0.5)
            return original(framer, *given)

        CachedFramer.keep = slowly  # type: ignore[method-assign]
        filling.MOST_TOGETHER = 4  # type: ignore[misc]


@pytest.mark.fault("{number} while a cache is filled ahead of a training")
@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_an_end_while_it_is_filled_leaves_what_can_be_gone_on_with(
    number: signal.Signals, train: Callable[..., Program], workplace: Path
) -> None:
    program = train("a", prepare=SlowToEncode())
    program.wait_for(lambda: "Caching 60 pictures" in program.output)
    trainer = trainer_of(program)
    program.signal(number)  # to the keeper
    assert program.wait() == (3 if number == signal.SIGTERM else -signal.SIGKILL)
    wait_for_the_end_of(trainer)
    assert "Traceback" not in program.output
    ended_well(train("a"))
    ended_well(train("b"))
    assert outcome(workplace / "runs/a") == outcome(workplace / "runs/b")


def test_a_stop_of_the_verb_keeps_all_that_was_made(
    start: Callable[..., Program], everstep: Callable[..., Ended], tiny_base: Path, pairs_folder: Path
) -> None:
    words = ("cache", pairs_folder, "--base", tiny_base, "--data.cache-folder", "cache")
    program = start(*words, prepare=SlowToEncode())
    program.wait_for(lambda: "Caching 30 pictures" in program.output)
    program.signal(signal.SIGINT)
    assert program.wait() == 3, program.output
    assert "What was cached stays" in program.output
    assert "Caching 30 pictures" not in (again := everstep(*words).out)
    assert "Encoded" in again


def rot(folder: Path, kind: str) -> Path:
    """Flip a bit in the middle of every record of the first shard."""
    path = next(shards_in(next(folder.glob(f"{kind}-*"))))
    shard, content = read_shard(path), bytearray(path.read_bytes())
    for begin, end in zip(shard.begins, shard.ends, strict=True):
        content[(int(begin) + int(end)) // 2] ^= 1
    path.write_bytes(content)
    return path


class RotAt:
    """The cache rots right after a step."""

    def __init__(self, step: int, folder: Path, kind: str) -> None:
        self.step, self.folder, self.kind = step, folder, kind

    def __call__(self) -> None:
        from everstep.train.loop import Loop

        original = Loop._step

        def stepped(loop: Loop) -> None:
            original(loop)
            if loop.state.step == self.step:
                rot(self.folder, self.kind)

        Loop._step = stepped  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "kind", ["latents", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("text", "conditions"))]
)
def test_a_cache_that_rots_is_named_and_made_again(
    train: Callable[..., Program], workplace: Path, kind: str, straight_ahead: object
) -> None:
    program = train("a", prepare=RotAt(7, workplace / "cache", kind))
    assert program.wait() == 4, program.output
    assert f"{kind}-" in program.output
    assert "is set aside" in program.output
    said = ended_well(train("a"))
    assert "Caching" in said
    assert "not the same" not in said  # made again, bit for bit
    assert outcome(workplace / "runs/a") == straight_ahead


def test_where_encoders_are_at_hand_nothing_holds_it_up(train: Callable[..., Program], workplace: Path) -> None:
    """Not rot, and not a disk that takes no more."""
    ended_well(train("a", mode="along"))
    ended_well(train("b", mode="along", prepare=RotAt(7, workplace / "cache", "latents")))
    with small_disk(workplace / "disk", "size=64k") as disk:
        said = ended_well(train("c", mode="along", cache=disk))
        assert said.count("what is encoded is not kept. Training goes on.") == 1
    both = [outcome(workplace / "runs" / name) for name in "abc"]
    assert both[0] == both[1] == both[2]


def test_a_shard_that_vanishes_is_missed_and_made_again(
    train: Callable[..., Program],
    everstep: Callable[..., Ended],
    tiny_base: Path,
    pairs_folder: Path,
    workplace: Path,
    straight_ahead: object,
) -> None:
    words = ("cache", pairs_folder, "--base", tiny_base, "--data.cache-folder", "cache", "--data.flip-probability", 0.5)
    assert everstep(*words).code == 0
    shutil.rmtree(next((workplace / "cache").glob("text-*")))
    said = ended_well(train("a"))
    assert "Caching 0 pictures and" in said
    assert outcome(workplace / "runs/a") == straight_ahead


def test_a_picture_that_changed_is_encoded_anew(
    train: Callable[..., Program], pairs_folder: Path, workplace: Path
) -> None:
    folder = shutil.copytree(pairs_folder, workplace / "pairs")
    assert train("a", data=folder, prepare=KillAfter(7, signal.SIGKILL)).wait() == 3
    Image.new("RGB", (20, 20), "red").save(folder / "3.png")
    refused = train("a", data=folder)
    assert refused.wait() == 2
    assert "have changed" in refused.output
    assert "Caching 2 pictures and 0 prompts" in ended_well(train("b", data=folder))


class ChangeWhenCaching:
    """A picture becomes another between the check and its encoding."""

    def __init__(self, picture: Path) -> None:
        self.picture = picture

    def __call__(self) -> None:
        from everstep.train import filling

        original = filling._check_room

        def checked(*given: object) -> None:
            original(*given)  # type: ignore[arg-type]
            Image.new("RGB", (20, 20), "blue").save(self.picture)

        filling._check_room = checked


def test_a_picture_that_changes_under_way_is_not_kept_as_what_it_was(
    train: Callable[..., Program], pairs_folder: Path, workplace: Path
) -> None:
    folder = shutil.copytree(pairs_folder, workplace / "pairs")
    program = train("a", data=folder, prepare=ChangeWhenCaching(folder / "29.png"))
    assert program.wait() == 4, program.output
    assert "29.png or its condition has changed since it was checked" in program.output
    shutil.copy(pairs_folder / "29.png", folder / "29.png")
    ended_well(train("a", data=folder))
    ended_well(train("b", cache=workplace / "other"))
    ours, theirs = (Run.open(workplace / "runs" / name).find("latest").manifest["cache"] for name in "ab")
    assert ours == theirs


@pytest.mark.parametrize("room", ["64k", "400k"])
def test_a_full_disk_is_said_and_costs_nothing(train: Callable[..., Program], workplace: Path, room: str) -> None:
    """Too little is told before anything is made; a disk that others fill meanwhile ends it with what was made."""
    with small_disk(workplace / "disk", f"size={room}") as disk:
        took = FillWhenCaching(disk) if room == "400k" else None
        program = train("a", cache=disk, prepare=took)
        code = program.wait()
        assert code == (2 if took is None else 4), program.output
        assert "free there" in program.output if took is None else "What was cached so far stays" in program.output
        assert "--data.cache-folder FOLDER" in program.output
        assert not list(disk.glob("*/.*.new"))
    ended_well(train("a"))


class FillWhenCaching:
    """Others take the disk's room once the cache is being filled."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk

    def __call__(self) -> None:
        from everstep.train import filling

        original = filling._check_room

        def checked(*given: object) -> None:
            original(*given)  # type: ignore[arg-type]
            fill(self.disk)

        filling._check_room = checked


def test_settings_that_cannot_go_together(
    everstep: Callable[..., Ended], tiny_base: Path, pairs_folder: Path, workplace: Path
) -> None:
    words = ("train", "--run", "a", "--base", tiny_base, "--data", pairs_folder, "--optim.max-steps", 1)
    ended = everstep(*words, "--data.cache", "ahead", "--data.crop", "random")
    assert ended.code == 2
    assert "--data.crop centre" in ended.out
    assert not (workplace / "runs").exists()
    assert everstep(*words).code == 0
    ended = everstep("resume", "a", "--set", "data.cache=ahead", "--set", "optim.max_steps=2")
    assert ended.code == 2
    assert "data.cache cannot change within a run" in ended.out
