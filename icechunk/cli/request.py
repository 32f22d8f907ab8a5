"""What a user asked the heavy commands to do, parsed, before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.inputs.kinds import Chunks, Region


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestRequest:
    """One call of ``icechunk ingest``; the fields are its options."""

    sources: tuple[str, ...]
    location: str
    storage_options: tuple[str, ...]
    plan_only: bool
    chunks: Chunks | Literal["auto"] | None
    group: str | None
    mode: str | None
    append_dim: str | None
    region: Region | Literal["auto"] | None
    branch: str
    message: str | None
    metadata: Mapping[str, Any]
    commit_each: bool
    create: bool
    workers: int | None
    scheduler: str | None
    engine: str | None
    open_options: Mapping[str, Any]
    decode: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTerms:
    """What ``icechunk ingest`` was told about a job; the fields are its options.

    Without a name there is no job.
    """

    name: str | None
    resume: bool
    commit_every: str | None
    unit_size: int | None
    verify: str | None
    read_back: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """One call of ``icechunk demo``; the fields are its options."""

    location: str
    storage_options: tuple[str, ...]
    size_bytes: int
    workers: int
    scheduler: str | None
