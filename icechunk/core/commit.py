"""From a change set to the node list and transaction log of the next snapshot.

Source: Icechunk specification, sections "Commit" and "Transaction log content".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from icechunk.core.moves import arranged, composed_moves
from icechunk.format.chunk_table import sorted_unique
from icechunk.format.snapshot import ManifestFiles, NodeKind
from icechunk.format.transaction_log import TransactionLog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.core.changes import ChangeSet
    from icechunk.format.snapshot import ManifestRefs, NodeSnapshot, NodeTable
    from icechunk.ids import NodeId, ObjectId


def effective_changes(base: NodeTable, changes: ChangeSet) -> ChangeSet:
    """Return the changes without those that change nothing.

    A document set back to the base's bytes is no change, nor are edits of nodes that are gone.
    """
    effective = changes.copy()
    for node_id in changes.updated:
        if not _is_updated(base, changes, node_id):
            del effective.updated[node_id]
    return effective


def changes_nothing(base: NodeTable, changes: ChangeSet) -> bool:
    """Say whether `effective_changes` of these would be empty."""
    rest = (changes.new_nodes, changes.deleted, changes.chunks, changes.moves)
    return not any(rest) and not any(_is_updated(base, changes, n) for n in changes.updated)


def _is_updated(base: NodeTable, changes: ChangeSet, node_id: NodeId) -> bool:
    node = base.by_id(node_id)
    return node is not None and node.user_data != changes.updated[node_id].user_data


def array_nodes_to_write(
    base: NodeTable, changes: ChangeSet, *, every: bool = False
) -> list[NodeSnapshot]:
    """Return the arrays whose manifests a commit must look at, with their new documents.

    New arrays that have chunks, and arrays of the base with a new document or changed chunks; all
    of the base with ``every``.
    """
    new = [
        node
        for node in changes.new_nodes.values()
        if node.kind is NodeKind.ARRAY and node.id in changes.chunks
    ]
    new_ids = {node.id for node in changes.new_nodes.values()}
    touched = (changes.updated.keys() | changes.chunks.keys()) - new_ids
    if every:
        touched |= {node.id for node in base} - changes.deleted.keys()
    old = []
    for node_id in sorted(touched):
        node = base.by_id(node_id)
        if node is not None and node.kind is NodeKind.ARRAY:
            old.append(updated_node(node, changes))
    return new + old


def updated_node(node: NodeSnapshot, changes: ChangeSet) -> NodeSnapshot:
    """Return a node of the base with the document the session gave it, if any."""
    document = changes.updated.get(node.id)
    if document is None:
        return node
    return replace(
        node,
        user_data=document.user_data,
        shape=document.shape,
        dimension_names=document.dimension_names,
    )


def next_nodes(
    base: NodeTable, changes: ChangeSet, manifests: Mapping[NodeId, ManifestRefs]
) -> NodeTable:
    """Return the node list of the next snapshot.

    Parameters
    ----------
    base : NodeTable
        Nodes of the parent snapshot.
    changes : ChangeSet
        What the session changed; moves are done first.
    manifests : mapping of NodeId to ManifestRefs
        New manifests of the arrays named by `array_nodes_to_write`.
    """
    base = arranged(base, changes.moves).nodes
    removed = []
    for node_id, gone in changes.deleted.items():
        node = base.get(gone.path)
        if node is not None and node.id == node_id:
            removed.append(gone.path)
    upserts: list[NodeSnapshot] = []
    for node_id in changes.updated.keys() | manifests.keys():
        node = base.by_id(node_id)
        if node is not None:
            node = updated_node(node, changes)
            upserts.append(replace(node, manifests=manifests.get(node_id, node.manifests)))
    upserts.extend(
        replace(node, manifests=manifests.get(node.id, node.manifests))
        for node in changes.new_nodes.values()
    )
    return base.edited(upserts, removed)


def next_manifest_files(
    parent: ManifestFiles, nodes: NodeTable, written: ManifestFiles
) -> ManifestFiles:
    """Return the records of all manifests that the next snapshot's arrays use.

    Parameters
    ----------
    parent : ManifestFiles
        Records of the parent snapshot; sizes and counts of reused manifests come from there.
    nodes : NodeTable
        Nodes of the next snapshot.
    written : ManifestFiles
        Records of the manifests this commit wrote.
    """
    return ManifestFiles.concat([parent, written]).restricted_to(nodes.manifest_ids())


def transaction_log_of(
    snapshot_id: ObjectId, base: NodeTable, changes: ChangeSet
) -> TransactionLog:
    """Return the log of a commit of these changes."""
    new = changes.new_nodes.values()
    ids_and_kinds = {node_id: gone.kind for node_id, gone in changes.deleted.items()}
    updated = {node_id: document.kind for node_id, document in changes.updated.items()}

    def of_kind(nodes: Mapping[NodeId, NodeKind], kind: NodeKind) -> frozenset[NodeId]:
        return frozenset(node_id for node_id, k in nodes.items() if k is kind)

    alive = {node.id for node in new}
    return TransactionLog(
        id=snapshot_id,
        new_groups=frozenset(node.id for node in new if node.kind is NodeKind.GROUP),
        new_arrays=frozenset(node.id for node in new if node.kind is NodeKind.ARRAY),
        deleted_groups=of_kind(ids_and_kinds, NodeKind.GROUP),
        deleted_arrays=of_kind(ids_and_kinds, NodeKind.ARRAY),
        updated_arrays=of_kind(updated, NodeKind.ARRAY),
        updated_groups=of_kind(updated, NodeKind.GROUP),
        updated_chunks={
            node_id: edits.table().coords
            for node_id, edits in changes.chunks.items()
            if node_id in alive or base.by_id(node_id) is not None
        },
        moved_nodes=arranged(base, changes.moves).moved,
    )


def united_log(older: TransactionLog, newer: TransactionLog) -> TransactionLog:
    """Return the log of two commits made one, under the id of the newer.

    Source: Icechunk specification, section "Other ways to make snapshots": sets are united, so an
    id may be both in the new and in the deleted ones; moves are composed node by node.
    """
    chunks = dict(older.updated_chunks)
    for node_id, coords in newer.updated_chunks.items():
        before = chunks.get(node_id)
        if before is not None and not len(coords):
            continue
        if before is None or before.shape[1] != coords.shape[1]:
            chunks[node_id] = coords
        else:
            chunks[node_id] = sorted_unique(np.concatenate([before, coords]))
    return TransactionLog(
        id=newer.id,
        new_groups=older.new_groups | newer.new_groups,
        new_arrays=older.new_arrays | newer.new_arrays,
        deleted_groups=older.deleted_groups | newer.deleted_groups,
        deleted_arrays=older.deleted_arrays | newer.deleted_arrays,
        updated_arrays=older.updated_arrays | newer.updated_arrays,
        updated_groups=older.updated_groups | newer.updated_groups,
        updated_chunks=chunks,
        moved_nodes=composed_moves([*older.moved_nodes, *newer.moved_nodes]),
    )
