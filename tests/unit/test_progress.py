"""Events, reports, log lines and the bar in each of its places."""

from __future__ import annotations

import io
import json
import logging
import pickle
import re

import pytest
from rich.console import Console

from icechunk._tables import TextTable
from icechunk.events import (
    NOTHING,
    Advanced,
    Amount,
    Committed,
    Failed,
    Finished,
    Started,
    UnitFailed,
    UnitFinished,
    UnitStarted,
    as_part_of,
    event_fields,
    told_to_all,
)
from icechunk.progress import BarState, ProgressBar, logged, operation, shown
from icechunk.report import ArrayReport, IngestReport

TOTAL = Amount(chunks=10, size_bytes=10_000_000)
HALF = Amount(chunks=5, size_bytes=5_000_000)
EVENTS = (
    Started(job_id="j1", label="writing", total=TOTAL),
    Advanced(job_id="j1", done=HALF),
    UnitStarted(job_id="j1", unit_id="u1", label="a.nc"),
    UnitFailed(job_id="j1", unit_id="u1", error="disk on fire", will_retry=True),
    UnitFinished(job_id="j1", unit_id="u1", amount=HALF, seconds=1.0),
    Committed(job_id="j1", snapshot_id="S", branch="main", unit_ids=("u1", "u2")),
    Finished(job_id="j1", done=TOTAL, seconds=2.0),
    Failed(job_id="j1", error="out of memory", seconds=3.0),
)


def test_amounts_add_up():
    assert HALF + HALF == TOTAL
    assert TOTAL - HALF == HALF
    assert sum([HALF, HALF], NOTHING) == TOTAL


@pytest.mark.parametrize("event", EVENTS)
def test_events_are_plain_values(event):
    assert pickle.loads(pickle.dumps(event)) == event
    assert json.loads(json.dumps(event_fields(event)))["event"] == type(event).__name__


def test_an_operation_tells_its_whole_story():
    seen = []
    with operation(seen.append, "writing", TOTAL, job_id="j") as running:
        running.advance_to(HALF)
        running.done = TOTAL
    assert [type(event) for event in seen] == [Started, Advanced, Finished]
    assert seen[-1].done == TOTAL

    def fail():
        with operation(seen.append, "writing") as running:
            running.advance_to(HALF)
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert isinstance(seen[-1], Failed)
    assert seen[-1].done == HALF
    assert "x" in seen[-1].error


def test_a_part_counts_for_its_job():
    seen = []
    part = as_part_of("job", HALF, seen.append)
    with operation(part, "writing a unit") as running:
        running.advance_to(Amount(chunks=1))
    assert seen == [Advanced(job_id="job", done=HALF + Amount(chunks=1))]


def test_several_observers():
    first, second = [], []
    tell = told_to_all(first.append, second.append)
    for event in EVENTS:
        tell(event)
    assert first == second == list(EVENTS)


def test_log_lines_have_ids(caplog):
    caplog.set_level(logging.DEBUG, "icechunk.progress")
    for event in EVENTS:
        logged(event)
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.startswith("job=j1") for line in lines)
    assert [line.split()[1] for line in lines if "unit=" in line] == ["unit=u1"] * 3
    assert [r.levelname for r in caplog.records if r.levelno >= logging.WARNING] == ["WARNING"] * 2
    assert "committed S to main, units u1 u2" in lines[5]
    assert "disk on fire" in lines[3]


def run(bar):
    for event in EVENTS[:2]:
        bar(event)
    bar(EVENTS[6])
    bar.close()


def test_a_bar_in_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    run(ProgressBar(console))
    text = console.file.getvalue()
    assert "writing" in text
    assert "0 B of 10.0 MB, 0 of 10 chunks" in text
    assert "10.0 MB, 10 chunks, " in text
    assert re.search(r"/s, in \d+\.\d s", text)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_bar_stays_on_its_line(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    total = Amount(size_bytes=24 * 10**6, chunks=1000, units=15)
    done = Amount(size_bytes=16 * 10**6, chunks=666, units=11)
    bar = ProgressBar(console)
    bar(Started(job_id="j", label="ingesting", total=total))
    bar._drawn = 0.0
    bar(Advanced(job_id="j", done=done))
    bar.close()
    picture = console.file.getvalue()
    assert picture.count("\n") == 1, "the one at the end"
    assert "16.0 MB of 24.0 MB" in picture or width < 60


def test_the_rate_is_of_what_was_done_this_time():
    state = BarState(Started(job_id="j", label="ingesting", total=TOTAL, done=HALF))
    assert not any("/s" in text for text in state.texts())
    state.done = HALF + Amount(size_bytes=1)
    state._began = (state._began[0] - 100, state._began[1])
    assert "0 B/s" in state.texts()


def test_one_line_where_there_is_no_terminal():
    console = Console(file=io.StringIO(), width=1000)
    run(ProgressBar(console))
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith("writing: 10.0 MB, 10 chunks, ")


def test_a_bar_in_a_notebook(monkeypatch):
    from IPython import display as shows
    from IPython.core.interactiveshell import InteractiveShell

    pictures = []

    class Handle:
        def update(self, data, raw):
            assert raw
            pictures.append(data)

    class Kernel(InteractiveShell):
        kernel = None

    monkeypatch.setattr("IPython.get_ipython", lambda: Kernel.__new__(Kernel))
    monkeypatch.setattr(shows, "display", lambda *_args, **_kwargs: Handle())
    run(ProgressBar())
    assert '<progress value="0.0000">' in pictures[0]["text/html"]
    assert '<progress value="1.0000">' in pictures[-1]["text/html"]
    assert pictures[-1]["text/plain"].startswith("writing: 10.0 MB, 10 chunks")


def test_time_left_and_failure():
    state = BarState(EVENTS[0])
    assert not any("left" in text for text in state.texts())
    state.done = HALF
    assert any(text.endswith("left") for text in state.texts())
    assert state.fraction == 0.5
    state.end(failed=True)
    assert state.fraction == 0.5
    assert any(text.startswith("failed after") for text in state.texts())


def test_a_bar_of_unknown_length():
    state = BarState(Started(job_id="j", label="collecting garbage"))
    state.done = Amount(objects=1)
    assert not state.known
    assert "1 object" in state.texts()


def test_nothing_is_shown_unless_asked_for(capsys):
    for progress in (False, None):
        with shown(progress) as observer:
            observer(EVENTS[0])
    assert capsys.readouterr() == ("", "")


def test_reports():
    rows = (
        ArrayReport(path="/a", chunks=2, size_bytes=3000, stored_bytes=1000),
        ArrayReport(path="/b<", chunks=1, size_bytes=10, stored_bytes=0),
    )
    report = IngestReport(
        job_id="j", arrays=rows, tasks=3, seconds=2.0, units=1, snapshot_ids=("S",), retries=1
    )
    assert (report.chunks, report.size_bytes, report.stored_bytes) == (3, 3010, 1000)
    assert report.bytes_per_second == 1505
    text = str(report)
    for part in ("job j", "/a", "3.0", "1 commit", "1 retry", "1 unit", "3 tasks"):
        assert part in text
    assert "/b&lt;" in report._repr_html_()
    assert json.loads(json.dumps(report.to_dict()))["chunks"] == 3
    assert pickle.loads(pickle.dumps(report)) == report
    both = report + IngestReport(job_id="k", arrays=rows[:1], tasks=1, snapshot_ids=("T",))
    assert [row.chunks for row in both.arrays] == [4, 1]
    assert (both.job_id, both.tasks, both.snapshot_ids) == ("j", 4, ("S", "T"))
    assert IngestReport(job_id="empty").bytes_per_second == 0


def test_tables():
    table = TextTable(title="T", columns=("name", "n"), rows=(("a", "1"), ("bb", "10")),
                      total=("all", "11"), notes=("a note",), warnings=("<careful>",))  # fmt: skip
    assert table.text().splitlines() == [
        "T", "name   n", "--------", "a      1", "bb    10", "--------", "all   11", "a note",
        "! <careful>",
    ]  # fmt: skip
    assert "&lt;careful&gt;" in table.html()
