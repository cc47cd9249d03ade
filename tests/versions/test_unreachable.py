"""A disk that answers badly is one that refuses: a sentence and an exit code, and nothing is called damaged for it."""

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator

import pytest
from drafts import OPTIMIZER, WEIGHTS, draft

from everstep.errors import DamageFound, EverstepError, ExitCode, NotCommitted, UnreachableDisk, UserError
from everstep.versions import Course, Run, ahead, load_into, manifest, rows, status, verify

CALLS = {"statvfs": [os], "scandir": [os], "listdir": [os], "stat": [os], "open": [builtins, io, os], "preadv": [os]}
LOOKS: dict[str, Callable[[Run], object]] = {
    "versions": lambda run: run.versions(),
    "rows": rows,
    "status": lambda run: status(run, Course(9)),
    "newest_whole": lambda run: run.newest_whole(lambda _: None),
    "newest_resumable": lambda run: run.newest_resumable(lambda _: None),
    "set_aside_damaged": lambda run: run.set_aside_damaged(2, lambda _: None),
    "damaged": lambda run: run.damaged(),
    "next_number": lambda run: run.next_number(),
    "open": lambda run: Run.open(run.path),
}


class Failing:
    """A call of the system that fails from the nth on, within a run's folder or where nothing tells."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, run: Run, call: str, nth: int, number: int) -> None:
        self.count, self._nth, self._number, self._run = 0, nth, number, run
        for module in CALLS[call]:
            monkeypatch.setattr(module, call, self._failing(getattr(module, call)))

    def _failing(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            first = arguments[0] if arguments else ""
            if isinstance(first, int) or str(first).startswith(str(self._run.path)):
                self.count += 1
                if self.count >= self._nth:
                    raise OSError(self._number, os.strerror(self._number))
            return real(*arguments, **named)

        return call


def each(
    monkeypatch: pytest.MonkeyPatch, run: Run, call: str, number: int, act: Callable[[], object]
) -> Iterator[EverstepError | None]:
    """What the act raises when all calls fail, all but the first, and so on."""
    for nth in range(1, 300):
        with monkeypatch.context() as patched:
            failing, raised = Failing(patched, run, call, nth, number), None
            try:
                act()
            except EverstepError as error:
                raised = error
        if failing.count < nth:
            return
        yield raised
    pytest.fail("it never ended")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_whatever_fails_while_committing_it_is_not_committed(
    run: Run, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    for raised in each(monkeypatch, run, call, number, lambda: run.commit(draft(30))):
        assert raised is None or isinstance(raised, NotCommitted)
        if raised is not None:
            assert os.strerror(number) in str(raised)
            assert str(raised).endswith("Older versions are whole.")
        assert all(verify(version) == [] for version in run.versions())


def test_a_version_that_cannot_be_read_back_is_not_called_committed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = manifest.encode
    with monkeypatch.context() as patched:
        patched.setattr(manifest, "encode", lambda facts: real(facts)[:-10])
        patched.setattr("everstep.versions.commit.append_log", lambda *_: None)
        patched.setattr("everstep.versions.commit.json.loads", lambda _: {})
        with pytest.raises(NotCommitted, match=r"version_3 \(step 30\) was written, but cannot be read back"):
            run.commit(draft(30))


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("call", CALLS)
def test_whoever_looks_is_told_in_a_sentence_and_nothing_is_set_aside(
    run: Run, monkeypatch: pytest.MonkeyPatch, look: str, call: str
) -> None:
    seen = []
    for raised in each(monkeypatch, run, call, errno.ESTALE, lambda: LOOKS[look](run)):
        seen.append(raised)
        if raised is not None:
            assert isinstance(raised, UnreachableDisk)
            assert raised.exit_code == ExitCode.DISK_FULL
            assert f"cannot be read: {os.strerror(errno.ESTALE)}. Nothing was changed" in str(raised)
        assert not run.layout.quarantine.exists()
        assert len(run.versions()) == 3
    assert call == "stat" or not seen or any(seen)


@pytest.mark.parametrize(("number", "kind"), [(errno.ESTALE, UnreachableDisk), (errno.EIO, DamageFound)])
def test_loading_tells_a_disk_that_is_away_from_one_that_is_broken(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[EverstepError]
) -> None:
    version = run.version(2)

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ahead.os, "preadv", fail)
    with pytest.raises(kind, match=rf"optimizer\.safetensors cannot be read.*{os.strerror(number)}"):
        list(load_into(version.path, OPTIMIZER, version.files, lambda _, place: memoryview(bytearray(place.end))))
    if kind is DamageFound:
        assert [fault.file for fault in verify(version)] == [WEIGHTS, OPTIMIZER]
    else:
        with pytest.raises(UnreachableDisk):
            verify(version)


def test_a_lock_that_cannot_be_opened_is_told_in_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("everstep.versions.lock.os.open", fail)
    with pytest.raises(UserError, match=r"Read-only file system\)\. Nothing was changed"), run.lock("mine"):
        pass
