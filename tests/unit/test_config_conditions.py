"""Conditions on arrays and dimensions: matching, combining, order of splitting rules."""

from __future__ import annotations

import pickle

import pytest

from icechunk._patterns import pattern_found
from icechunk.config import (
    ManifestConfig,
    ManifestPreloadCondition,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
    RepositoryConfig,
)
from icechunk.manifest_config import UNSPLIT
from icechunk.preload_conditions import DEFAULT_PRELOAD

ANY = ManifestSplitCondition.AnyArray()
YES, NO = ManifestPreloadCondition.true(), ManifestPreloadCondition.false()


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (ManifestSplitCondition.path_matches("^/a"), True),
        (ManifestSplitCondition.path_matches("^a"), False),
        (ManifestSplitCondition.path_matches("b/"), True),
        (ManifestSplitCondition.path_matches(""), True),
        (ManifestSplitCondition.name_matches("^lat$"), True),
        (ManifestSplitCondition.name_matches("b"), False),
        (ManifestSplitCondition.name_matches("["), False),
        (ManifestSplitCondition.or_conditions([]), False),
        (ManifestSplitCondition.and_conditions([]), True),
        (ANY | ManifestSplitCondition.name_matches("zzz"), True),
        (ANY & ManifestSplitCondition.name_matches("zzz"), False),
    ],
)
def test_array_conditions(condition, holds):
    assert condition.matches("/a/b/lat") is holds
    assert isinstance(condition, ManifestSplitCondition)
    assert pickle.loads(pickle.dumps(condition)) == condition


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (r"lat\z", True),
        (r"(?i)LAT", True),
        (r"(?<x>lat)", True),
        (r"(?P<x>lat)", True),
        (r"(?:l)(a)t", True),
        (r"\x{6c}at", True),
        (r"^\w{3}$", True),
        (r"\(", False),
        (r"(?=l)", False),
        (r"(?!x)", False),
        (r"(?<=l)a", False),
        (r"(?<!x)a", False),
        (r"(a)\1", False),
        (r"lat\Z", False),
        (r"[", False),
        ("\\", False),
        (r"\x{110000000}", False),
    ],
)
def test_patterns_are_read_as_by_the_reference(pattern, found):
    assert pattern_found(pattern, "lat") is found


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (ManifestSplitDimCondition.Axis(1), True),
        (ManifestSplitDimCondition.Axis(0), False),
        (ManifestSplitDimCondition.DimensionName("im"), True),
        (ManifestSplitDimCondition.DimensionName("^im"), False),
        (ManifestSplitDimCondition.DimensionName("["), False),
        (ManifestSplitDimCondition.Any(), True),
    ],
)
def test_dimension_conditions(condition, holds):
    assert condition.matches(1, "time") is holds
    assert isinstance(condition, ManifestSplitDimCondition)


def test_unnamed_dimension_matches_no_name():
    assert not ManifestSplitDimCondition.DimensionName("").matches(0, None)


def test_negative_axis():
    with pytest.raises(ValueError, match="counted from 0"):
        ManifestSplitDimCondition.Axis(-1)


@pytest.mark.parametrize(
    ("low", "high", "holding"),
    [(None, None, [0, 4, 5, 6]), (5, None, [5, 6]), (None, 5, [0, 4]), (4, 6, [4, 5]), (6, 4, [])],
)
def test_number_of_references_is_half_open(low, high, holding):
    condition = ManifestPreloadCondition.num_refs(low, high)
    assert [n for n in (0, 4, 5, 6) if condition.matches("/a", n)] == holding
    assert (getattr(condition, "from"), condition.to) == (low, high)


def test_preload_conditions():
    name = ManifestPreloadCondition.name_matches("^a$")
    assert (name & YES).matches("/x/a", 1)
    assert not (name & NO).matches("/x/a", 1)
    assert (name | NO).matches("/x/a", 1)
    assert not ManifestPreloadCondition.or_conditions([]).matches("/a", 1)
    assert ManifestPreloadCondition.and_conditions([]).matches("/a", 1)
    assert ManifestPreloadCondition.path_matches("^/x").matches("/x/a", 1)


def test_official_names_that_are_keywords():
    assert getattr(ManifestPreloadCondition, "True")() == YES
    assert getattr(ManifestPreloadCondition, "False")() == NO
    assert isinstance(YES, ManifestPreloadCondition)
    assert pickle.loads(pickle.dumps(YES)) == YES


def test_cases_match_positionally_and_the_union_cannot_be_made():
    match ManifestSplitCondition.path_matches("x") | ANY:
        case ManifestSplitCondition.Or((ManifestSplitCondition.PathMatches(regex), _)):
            assert regex == "x"
    with pytest.raises(TypeError, match="use one of its cases"):
        ManifestSplitCondition()


@pytest.mark.parametrize("part", [1, "x", YES])
def test_strange_members_are_refused(part):
    with pytest.raises(TypeError, match="ManifestSplitCondition"):
        ManifestSplitCondition.or_conditions([part])


@pytest.mark.parametrize(
    ("path", "refs", "preloaded"),
    [
        ("/time", 1000, True),
        ("/time", 1001, False),
        ("/g/lat", 3, True),
        ("/longitude", 3, True),
        ("/x", 3, True),
        ("/depth", 3, True),
        ("/year2", 3, True),
        ("/temperature", 3, False),
        ("/TIME", 3, False),
        ("/runtime", 3, False),
    ],
)
def test_default_preload(path, refs, preloaded):
    assert DEFAULT_PRELOAD.matches(path, refs) is preloaded


# --- splitting --------------------------------------------------------------------------------


def _split(sizes, path="/a", names=None, ndim=2):
    config = RepositoryConfig(manifest=ManifestConfig(splitting=ManifestSplittingConfig(sizes)))
    return config.resolved().splitting.split_for(path, names, ndim)


def test_first_matching_entry_of_all_matching_rules_counts():
    sizes = [
        (ManifestSplitCondition.name_matches("zzz"), [(ManifestSplitDimCondition.Any(), 1)]),
        (ManifestSplitCondition.path_matches("a"), [(ManifestSplitDimCondition.Axis(1), 2)]),
        (ANY, [(ManifestSplitDimCondition.DimensionName("t"), 3)]),
        (ANY, [(ManifestSplitDimCondition.Any(), 4)]),
    ]
    assert _split(sizes) == (4, 2)
    assert _split(sizes, names=["time", None]) == (3, 2)
    assert _split(sizes, path="/b", names=["x", "time"]) == (4, 3)
    assert _split(sizes, ndim=0) == ()


def test_axis_without_entry_is_not_split():
    assert _split([]) == (UNSPLIT, UNSPLIT)
    assert _split([(ANY, [(ManifestSplitDimCondition.Axis(7), 2)])]) == (UNSPLIT, UNSPLIT)
