"""What has to hold after any crash, checked by opening the run anew."""

from pathlib import Path

from drafts import arrays, draft

from everstep.versions import Run, read_tensors, verify


def opens_with(root: Path, acknowledged: set[int]) -> None:
    """The store opens; what was acknowledged is there bit for bit; what is offered is whole; it can go on."""
    run = Run.open(root)
    with run.lock("test"):
        run.recover()
        newest = run.newest_whole(lambda sentence: None)
        assert newest is not None
        numbers = {version.number for version in run.versions()}
        assert acknowledged <= numbers, f"{acknowledged - numbers} lost"
        assert newest.number >= max(acknowledged)
        for version in run.versions():
            assert verify(version) == []
            for path, named in arrays(version.step).items():
                loaded = read_tensors(version, path)
                assert all(bytes(loaded[name].buffer) == array.tobytes() for name, array in named.items())
        assert not [entry.name for entry in root.iterdir() if entry.name.endswith(".part")]
        following = run.commit(draft(90))
        assert following.number > newest.number
        assert verify(following) == []
