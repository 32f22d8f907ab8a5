"""Parsing options, writing units, chunk ranges, JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import product

import hypothesis.strategies as st
import numpy as np
import pytest
import typer
from hypothesis import given

from icechunk._units import bytes_text, count_text, parse_bytes, seconds_text
from icechunk.cli.console import to_json
from icechunk.cli.options import parse_chunks, parse_pairs, parse_region, parse_size
from icechunk.cli.render import clean
from icechunk.core.spans import grid_spans, span_text


def test_chunks() -> None:
    assert parse_chunks(None) is None
    assert parse_chunks(["auto"]) == "auto"
    assert parse_chunks(["time=24, lat=-1", "lon=auto"]) == {"time": 24, "lat": -1, "lon": "auto"}


@pytest.mark.parametrize("text", ["time", "time=0", "time=-2", "time=x", "=3", "time=1.5"])
def test_chunks_that_make_no_sense(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="--chunks"):
        parse_chunks([text])


def test_region() -> None:
    assert parse_region(None) is None
    assert parse_region(["auto"]) == "auto"
    assert parse_region(["time=0:24,lat=auto,lon=:5,z=3:"]) == {
        "time": slice(0, 24),
        "lat": "auto",
        "lon": slice(0, 5),
        "z": slice(3, None),
    }


@pytest.mark.parametrize("text", ["time", "time=5", "time=5:5", "time=-3:4", "time=a:b", "t=1:2:3"])
def test_regions_that_make_no_sense(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="--region"):
        parse_region([text])


def test_pairs() -> None:
    given_pairs = ["a=1", "b=true", 'c={"d": [1]}', "e=x=y", "f="]
    expected = {"a": "1", "b": True, "c": {"d": [1]}, "e": "x=y", "f": ""}
    assert parse_pairs(given_pairs, "--o") == expected
    for bad in ("a", "=1", "a={"):
        with pytest.raises(typer.BadParameter, match="--o"):
            parse_pairs([bad], "--o")


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GB", 10**9), ("1.5 GiB", 3 * 2**29), ("100mb", 10**8), ("7", 7), ("2k", 2000), ("3B", 3)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1XB", "1 G B"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no size"):
        parse_size(text)


def test_bytes_text() -> None:
    shown = [bytes_text(n) for n in (0, 999, 1000, 999_499, 999_999, 8_340_000, 10**9, 10**18)]
    assert shown == [
        "0 B", "999 B", "1.00 kB", "999 kB", "1.00 MB", "8.34 MB", "1.00 GB", "1000 PB",
    ]  # fmt: skip


@given(st.integers(1, 10**17))
def test_bytes_text_is_near_the_number(size: int) -> None:
    assert parse_bytes(bytes_text(size)) == pytest.approx(size, rel=0.006)


def test_counts_and_durations() -> None:
    assert [count_text(n, "chunk") for n in (0, 1, 1200)] == ["0 chunks", "1 chunk", "1,200 chunks"]
    assert count_text(2, "entry", "entries") == "2 entries"
    assert [seconds_text(s) for s in (0.04, 9.96, 59.7, 200, 7500)] == [
        "0.0 s", "10 s", "1 min 0 s", "3 min 20 s", "2 h 5 min",
    ]  # fmt: skip


@given(st.integers(1, 3).flatmap(lambda n: st.sets(st.tuples(*[st.integers(0, 4)] * n))))
def test_spans_cover_exactly_the_chunks_once(coordinates: set[tuple[int, ...]]) -> None:
    covered = [
        point
        for span in grid_spans([list(c) for c in coordinates])
        for point in product(*(range(start, stop) for start, stop in span))
    ]
    assert sorted(covered) == sorted(coordinates)


def test_spans_of_a_full_box_are_one() -> None:
    assert grid_spans(list(product(range(2, 5), range(4), [7]))) == [[[2, 5], [0, 4], [7, 8]]]
    assert span_text([[2, 5], [0, 4], [7, 8]]) == "[2:5, 0:4, 7]"
    assert grid_spans([[]]) == [[]]
    assert grid_spans([]) == []


def test_json_is_strict_whatever_the_values_are() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    data = {"nan": float("nan"), "np": np.arange(2), "set": {"b", "a"}, "when": when, 3: b"x"}
    assert json.loads(to_json(data)) == {
        "nan": "nan",
        "np": [0, 1],
        "set": ["a", "b"],
        "when": "2026-01-02T00:00:00+00:00",
        "3": "b'x'",
    }


def test_json_in_ascii() -> None:
    assert to_json(["é"], ascii_only=True) == '[\n  "\\u00e9"\n]'


def test_text_of_others_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[31mb\x07\n\tc\r\nd") == "a�[31mb�\n\tc\nd"
