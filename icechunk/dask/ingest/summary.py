"""What a job came to."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from icechunk._units import count_text
from icechunk.dask.ingest.jobs import JobCommit
from icechunk.dask.ingest.proof import ArrayPart, Proof
from icechunk.events import NOTHING, Amount
from icechunk.report import ArrayReport, IngestReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """What a finished job came to, however often it was resumed.

    Parameters
    ----------
    job_id, branch : str
        Of the job.
    report : IngestReport
        What was written; ``seconds`` and ``retries`` are those of the process that finished it.
    proof : Proof
        That it is complete.
    commits : tuple of JobCommit
        What was committed, oldest first.
    """

    job_id: str
    branch: str
    report: IngestReport
    proof: Proof
    commits: tuple[JobCommit, ...]

    def facts(self) -> dict[str, Any]:
        """Return what is recorded of it."""
        return {
            "report": asdict(self.report),
            "proof": self.proof.to_dict(),
            "commits": [commit.facts() for commit in self.commits],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values that JSON can hold."""
        return {
            "job_id": self.job_id,
            "branch": self.branch,
            **self.facts(),
            "report": self.report.to_dict(),
        }

    @classmethod
    def from_facts(cls, job_id: str, facts: Mapping[str, Any]) -> JobSummary:
        """Return the summary of a job that was finished before."""
        report = dict(facts["report"])
        report["arrays"] = tuple(ArrayReport(**row) for row in report["arrays"])
        report["snapshot_ids"] = tuple(report["snapshot_ids"])
        return cls(
            job_id=job_id,
            branch=facts["branch"],
            report=IngestReport(**report),
            proof=Proof.from_facts(facts["proof"]),
            commits=tuple(map(JobCommit.from_facts, facts["commits"])),
        )

    def __str__(self) -> str:
        return f"{self.report}\n{self._proof_text()}"

    def _repr_html_(self) -> str:
        return f"{self.report._repr_html_()}<p>{html.escape(self._proof_text())}</p>"

    def _proof_text(self) -> str:
        proof = self.proof
        looked = (
            (proof.objects_checked, "object", "looked up"),
            (proof.blocks_read_back, "block", "read back"),
        )
        more = "".join(f", {count_text(n, noun)} {verb}" for n, noun, verb in looked if n)
        return (
            f"Complete in snapshot {proof.snapshot_id}: "
            f"{count_text(proof.expected, 'chunk')} expected, {proof.present:,} stored, "
            f"{proof.fill:,} all fill value, {proof.replaced:,} replaced since, "
            f"{proof.missing:,} missing{more}"
        )


def report_of(
    job_id: str,
    parts: Iterable[ArrayPart],
    *,
    tasks: int,
    units: int,
    commits: Sequence[JobCommit],
    seconds: float,
    retries: int,
) -> IngestReport:
    """Return the report of a job whose units wrote some parts of arrays."""
    by_path: dict[str, Amount] = {}
    for part in parts:
        by_path[part.path] = by_path.get(part.path, NOTHING) + Amount(
            chunks=part.chunks, size_bytes=part.size_bytes, stored_bytes=part.stored_bytes
        )
    return IngestReport(
        job_id=job_id,
        arrays=tuple(
            ArrayReport(
                path=path,
                chunks=amount.chunks,
                size_bytes=amount.size_bytes,
                stored_bytes=amount.stored_bytes,
            )
            for path, amount in sorted(by_path.items())
        ),
        tasks=tasks,
        seconds=seconds,
        units=units,
        snapshot_ids=tuple(commit.snapshot_id for commit in commits),
        retries=retries,
    )
