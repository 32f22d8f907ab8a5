"""Drawn histories: each implementation makes them, goes on with the other's, and reads both."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from tests import peer
from tests.interchange import drawn_history
from tests.interchange.drawn_history import Operation, draw, neutral

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.peer

SHRINK_SECONDS = 60

Side: TypeAlias = Callable[..., Any]


class Peer:
    """One process of the official package, for all histories of this module."""

    def __init__(self, folder: Path) -> None:
        python = str(peer.peer_python())
        self.errors = (folder / "stderr").open("w+b")
        self.process = subprocess.Popen(
            [python, drawn_history.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            encoding="utf-8",
            cwd=Path(peer.__file__).parent,
            env=peer.environment(),
        )

    def __call__(self, command: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([command, *arguments]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise AssertionError(f"the official package died:\n{self.errors.read()[-4000:]!r}")
        answer = json.loads(line)
        assert "error" not in answer, f"the official package, {command}:\n{answer['error']}"
        return answer["value"]

    def close(self) -> None:
        self.process.communicate(timeout=30)
        self.errors.close()


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    served = Peer(tmp_path_factory.mktemp("official"))
    yield served
    served.close()


def ours(command: str, *arguments: Any) -> Any:
    return json.loads(json.dumps(drawn_history.COMMANDS[command](*arguments)))


def _continue(
    folder: Path, operations: list[Operation], spec_version: int, first: Side, second: Side
) -> None:
    """One side makes the first half, the other the second; both read the same after each."""
    repo, half = str(folder), len(operations) // 2
    first("create", repo, spec_version)
    for side, part in ((first, operations[:half]), (second, operations[half:])):
        side("play", repo, part)
        _assert_same(first("read", repo), second("read", repo))


def _both(folder: Path, operations: list[Operation], spec_version: int, official: Peer) -> None:
    """Both sides make the whole history, with the same outcome at each operation."""
    outcomes, readings = [], []
    for name, side in (("official", official), ("ours", ours)):
        side("create", str(folder / name), spec_version)
        outcomes.append(side("play", str(folder / name), operations))
        readings.append(side("read", str(folder / name)))
    for operation, theirs, mine in zip(operations, *outcomes, strict=True):
        assert mine == theirs, f"{mine} and not {theirs} came of {json.dumps(operation)}"
    _assert_same(neutral(readings[0]), neutral(readings[1]))
    assert sum(outcome != "nothing" for outcome in outcomes[0]) > len(operations) // 3


def _assert_same(left: Any, right: Any, at: str = "") -> None:
    """Compare, and say where it differs: whole readings are too long to be shown."""
    if isinstance(left, dict) and isinstance(right, dict):
        assert left.keys() == right.keys(), f"keys at {at}: {sorted(left.keys() ^ right.keys())}"
        for key in left:
            _assert_same(left[key], right[key], f"{at}/{key}")
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for i, (one, other) in enumerate(zip(left, right, strict=True)):
            _assert_same(one, other, f"{at}[{i}]")
    else:
        assert left == right, f"at {at}: {str(left)[:500]}, {str(right)[:500]}"


def _check(
    run: Callable[[Path, list[Operation]], None], folder: Path, operations: list[Operation]
) -> None:
    """Run a history; if it fails, fail with a part of it that fails as well."""
    try:
        run(folder / "whole", operations)
    except AssertionError as e:
        shorter, why = _shrunk(run, folder, operations, e)
        pytest.fail(f"{why}\nof these operations:\n{json.dumps(shorter)}")


def _shrunk(
    run: Callable[[Path, list[Operation]], None],
    folder: Path,
    operations: list[Operation],
    why: AssertionError,
) -> tuple[list[Operation], AssertionError]:
    until = time.monotonic() + SHRINK_SECONDS
    tries, size = 0, max(1, len(operations) // 2)
    while size and time.monotonic() < until:
        at = 0
        while at < len(operations) and time.monotonic() < until:
            tries += 1
            fewer = operations[:at] + operations[at + size :]
            try:
                with contextlib.suppress(OSError):
                    run(folder / f"try {tries}", fewer)
                at += size
            except AssertionError as e:
                operations, why = fewer, e
        size //= 2
    return operations, why


@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("seed", [1, 2])
def test_one_begins_and_the_other_goes_on(
    tmp_path: Path, official: Peer, seed: int, spec_version: int
) -> None:
    first, second = (ours, official) if seed % 2 else (official, ours)
    _check(
        lambda folder, drawn: _continue(folder, drawn, spec_version, first, second),
        tmp_path,
        draw(seed, 40, spec_version),
    )


@pytest.mark.parametrize("spec_version", [2, 1])
def test_both_make_the_same_of_one_history(
    tmp_path: Path, official: Peer, spec_version: int
) -> None:
    _check(
        lambda folder, drawn: _both(folder, drawn, spec_version, official),
        tmp_path,
        draw(3, 40, spec_version),
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("beginner", ["ours", "official"])
def test_long_histories(tmp_path: Path, official: Peer, beginner: str, spec_version: int) -> None:
    sides = (ours, official) if beginner == "ours" else (official, ours)
    drawn = draw(200 + (beginner == "ours"), 200, spec_version)
    _check(lambda folder, some: _continue(folder, some, spec_version, *sides), tmp_path, drawn)
    _check(lambda folder, some: _both(folder, some, spec_version, official), tmp_path / "b", drawn)
