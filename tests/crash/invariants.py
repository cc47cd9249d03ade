"""What has to hold after any crash, checked by opening the run anew."""

from pathlib import Path

from drafts import arrays, draft

from everstep.versions import Run, read_tensors, verify


def opens_with(root: Path, acknowledged: set[int]) -> None:
    """The store opens; what was acknowledged is there bit for bit; what is offered is whole; it can go on."""
    run = Run.open(root)
    with run.lock("test"):
        run.recover()
        # Before anything is set aside: what a crash left half done must never lie under the name of a version.
        assert run.damaged() == []
        numbers = {version.number for version in run.versions()}
        assert acknowledged <= numbers, f"{acknowledged - numbers} lost"
        for version in run.versions():
            assert verify(version) == []
            assert version.resumable, f"{version.name} has lost what a resume needs"
            for path, named in arrays(version.step).items():
                loaded = read_tensors(version, path)
                assert all(bytes(loaded[name].buffer) == array.tobytes() for name, array in named.items())
        said: list[str] = []
        newest = run.newest_whole(said.append)
        assert newest is not None
        assert said == []
        assert newest.number >= max(acknowledged)
        assert not [entry.name for entry in root.iterdir() if entry.name.endswith(".part")]
        following = run.commit(draft(90))
        assert following.number > newest.number
        assert verify(following) == []
