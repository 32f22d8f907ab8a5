"""Moving nodes to other paths, with everything below them.

Source: Icechunk specification, section "Move (v2)". A move is a value; what the moves of a session
come to is found by doing them one after the other on the nodes of a snapshot. So they can be done
again on a newer snapshot, where they take along what others put below.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from icechunk.errors import AlreadyExistsError, ErrorKind, NodeNotFoundError, SessionStateError
from icechunk.format.snapshot import NodeKind
from icechunk.format.transaction_log import MoveOperation
from icechunk.paths import NodePath, is_within, parent_of, sorted_within

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from icechunk.format.snapshot import NodeTable
    from icechunk.ids import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One move as it was asked for.

    Parameters
    ----------
    node_id : NodeId
        The node that was at ``from_path``.
    from_path, to_path : NodePath
        Where it was just before, and where it went.
    """

    node_id: NodeId
    from_path: NodePath
    to_path: NodePath


@dataclass(frozen=True, slots=True, eq=False)
class Arrangement:
    """The nodes of a snapshot after moves.

    Parameters
    ----------
    nodes : NodeTable
        All of them, at their new paths; ids, documents and manifests are as they were.
    moved : tuple of MoveOperation
        One for each node that is elsewhere now, descendants too, ordered by the new path.
    """

    nodes: NodeTable
    moved: tuple[MoveOperation, ...] = ()


def arranged(base: NodeTable, moves: Iterable[Move]) -> Arrangement:
    """Do moves one after the other.

    Raises
    ------
    NodeNotFoundError
        Kind ``node-not-found``; the node is not there (any more).
    SessionStateError
        Kind ``move-into-self-or-descendant``, ``move-destination-parent-missing`` or
        ``move-destination-parent-not-group``.
    AlreadyExistsError
        Kind ``move-wont-overwrite``; there is something at the new path, or below it.
    """
    arrangement = Arrangement(base)
    for move in moves:
        arrangement = with_move(arrangement, move)
    return arrangement


def with_move(arrangement: Arrangement, move: Move) -> Arrangement:
    """Do one more move; raises as `arranged`."""
    nodes, source, target = arrangement.nodes, move.from_path, move.to_path
    check_move(nodes, move)
    old_paths = sorted_within(nodes.paths, source)
    there = [node for node in map(nodes.get, old_paths) if node is not None]
    here = [replace(node, path=target + node.path.removeprefix(source)) for node in there]
    steps = [
        MoveOperation(
            from_path=before.path, to_path=after.path, node_id=after.id, node_kind=after.kind
        )
        for before, after in zip(there, here, strict=True)
    ]
    return Arrangement(nodes.edited(here, old_paths), composed_moves([*arrangement.moved, *steps]))


def check_move(nodes: NodeTable, move: Move) -> None:
    """Refuse a move that cannot be done; raises as `arranged`."""
    source, target = move.from_path, move.to_path
    node = nodes.get(source)
    if node is None or node.id != move.node_id:
        raise NodeNotFoundError(
            f"cannot move {source}: there is no such group or array.", ErrorKind.NODE_NOT_FOUND
        )
    if is_within(target, source):
        raise SessionStateError(
            f"cannot move {source} to {target}: that is the node itself, or below it.",
            ErrorKind.MOVE_INTO_SELF_OR_DESCENDANT,
        )
    if sorted_within(nodes.paths, target):
        raise AlreadyExistsError(
            f"cannot move {source} to {target}: there is a node already. Delete or move that one "
            "first.",
            ErrorKind.MOVE_WONT_OVERWRITE,
        )
    parent = parent_of(target)
    assert parent is not None, "the root is an ancestor of every node"
    group = nodes.get(parent)
    if group is None:
        raise SessionStateError(
            f"cannot move {source} to {target}: there is no group {parent}. Create it first; a "
            "move makes no groups.",
            ErrorKind.MOVE_DESTINATION_PARENT_MISSING,
        )
    if group.kind is not NodeKind.GROUP:
        raise SessionStateError(
            f"cannot move {source} to {target}: {parent} is an array, and arrays hold no nodes.",
            ErrorKind.MOVE_DESTINATION_PARENT_NOT_GROUP,
        )


def composed_moves(moves: Sequence[MoveOperation]) -> tuple[MoveOperation, ...]:
    """Return one move for each node that ended elsewhere, ordered by the new path.

    The order is component by component: ``/a/x`` comes before ``/a-b``.
    """
    composed: dict[NodeId, MoveOperation] = {}
    for move in moves:
        first = composed.get(move.node_id, move)
        composed[move.node_id] = replace(move, from_path=first.from_path)
    elsewhere = [move for move in composed.values() if move.from_path != move.to_path]
    return tuple(sorted(elsewhere, key=lambda move: move.to_path.split("/")))


def path_in_the_way(nodes: NodeTable, moves: Iterable[Move]) -> str | None:
    """Return the path at which moves cannot be done any more, None when they all can."""
    arrangement = Arrangement(nodes)
    for move in moves:
        try:
            arrangement = with_move(arrangement, move)
        except NodeNotFoundError:
            return move.from_path
        except (AlreadyExistsError, SessionStateError):
            return move.to_path
    return None
