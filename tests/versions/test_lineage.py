"""Trees of versions: branches, versions that are gone, and parents in other runs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from drafts import draft

from everstep.contracts import ParentRef
from everstep.versions import Run, Version
from everstep.versions.lineage import Node, ancestors, branches, tree


def child(run: Run, parent: Version | None, step: int, from_run: str | None = None) -> Version:
    reference = None if parent is None else ParentRef(from_run or run.name, parent.number, parent.manifest_digest)
    return run.commit(replace(draft(step), parent=reference))


@pytest.fixture
def line(tmp_path: Path) -> Run:
    """0 - 1 - 2 - 3, then 4 - 5 from 1."""
    run = Run.create(tmp_path / "runs" / "line", "a: 1\n")
    zero = child(run, None, 0)
    one = child(run, zero, 10)
    child(run, child(run, one, 20), 30)
    child(run, child(run, one, 21), 31)
    return run


def shape(nodes: list[Node]) -> list[object]:
    """Numbers, each followed by its children where it has any."""
    drawn: list[object] = []
    for node in nodes:
        drawn.append(node.version.number)
        if node.children:
            drawn.append(shape(node.children))
    return drawn


def remove(run: Run, *numbers: int) -> None:
    for number in numbers:
        shutil.rmtree(run.version(number).path)


def test_a_resume_from_an_older_version_is_a_branch(line: Run) -> None:
    assert shape(tree(line, line.versions())) == [0, [1, [2, [3], 4, [5]]]]


def test_children_of_versions_that_are_gone_hang_on_what_is_left_above(line: Run) -> None:
    remove(line, 1, 2)
    roots = tree(line, line.versions())
    assert shape(roots) == [0, [3, 4, [5]]]
    three, four = roots[0].children
    assert (three.gone, four.gone) == ([2, 1], [1])
    assert four.children[0].gone == []


def test_without_anything_left_above_versions_are_roots(line: Run) -> None:
    remove(line, 0, 1)
    assert shape(tree(line, line.versions())) == [2, [3], 4, [5]]
    assert [node.lost for node in tree(line, line.versions())] == [None, None]


def test_without_a_log_a_gone_parent_is_named_as_lost(line: Run) -> None:
    remove(line, 1)
    line.layout.log.unlink()
    roots = tree(line, line.versions())
    assert shape(roots) == [0, 2, [3], 4, [5]]
    assert [root.lost for root in roots] == [None, 1, 1]


def test_damaged_and_foreign_folders_break_nothing(line: Run) -> None:
    (line.version(2).path / "manifest.json").write_text("{")
    (line.path / "version_9").mkdir()
    (line.path / "version_old").mkdir()
    line.layout.log.write_bytes(line.layout.log.read_bytes() + b'{"version": "x"}\n[1]\nno json')
    assert shape(tree(line, line.versions())) == [0, [1, [3, 4, [5]]]]


def test_a_renamed_run_is_still_one_tree(line: Run) -> None:
    moved = line.path.rename(line.path.parent / "renamed")
    run = Run.open(moved)
    assert shape(tree(run, run.versions())) == [0, [1, [2, [3], 4, [5]]]]


def test_a_run_that_began_with_weights_of_this_one_is_a_branch(line: Run) -> None:
    other = Run.create(line.path.parent / "other", "a: 1\n")
    child(other, child(other, line.version(3), 0, from_run=str(line.path)), 5)
    (branch,) = branches(line)
    assert (branch.run.name, branch.number, branch.versions, branch.last_step) == ("other", 3, 2, 5)
    (root,) = tree(other, other.versions())
    assert root.origin == (str(line.path), 3)
    assert branches(other) == []
    remove(other, 0)
    other.layout.log.unlink()
    assert branches(line) == []  # nothing says it any more


def test_a_branch_is_known_after_its_first_version_is_gone(line: Run) -> None:
    other = Run.create(line.path.parent / "other", "a: 1\n")
    child(other, child(other, line.version(3), 0, from_run=str(line.path)), 5)
    remove(other, 0)
    assert [branch.number for branch in branches(line)] == [3]
    (root,) = tree(other, other.versions())
    assert root.origin == (str(line.path), 3)
    assert root.gone == [0]


def test_ancestors_go_through_gone_versions_and_into_other_runs(line: Run) -> None:
    other = Run.create(line.path.parent / "other", "a: 1\n")
    last = child(other, child(other, line.version(5), 0, from_run=str(line.path)), 5)
    remove(other, 0)
    remove(line, 4)
    found = [(folder.name, number) for folder, number, _ in ancestors(last)]
    assert found == [("other", 0), ("line", 5), ("line", 4), ("line", 1), ("line", 0)]


def test_ancestors_of_a_run_that_is_gone_are_not_known(line: Run) -> None:
    other = Run.create(line.path.parent / "other", "a: 1\n")
    last = child(other, child(other, line.version(5), 0, from_run=str(line.path)), 5)
    shutil.rmtree(line.path)
    assert [(folder.name, number) for folder, number, _ in ancestors(last)] == [("other", 0), ("line", 5)]


def test_a_log_that_goes_in_circles_ends(line: Run) -> None:
    remove(line, 1, 2)
    circle = {"event": "commit", "version": 1, "parent": "line@2", "digest": "none"}
    line.layout.log.write_text(line.layout.log.read_text() + json.dumps(circle) + "\n")
    assert shape(tree(line, line.versions())) == [0, 3, 4, [5]]


def test_ancestors_end_where_nothing_more_is_known(line: Run) -> None:
    remove(line, 4)
    line.layout.log.unlink()
    assert [number for _, number, _ in ancestors(line.version(5))] == [4]
    assert list(ancestors(line.version(0))) == []
