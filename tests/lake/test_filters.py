"""JMESPath filters: every example and rule of the document."""

from __future__ import annotations

import math

import numpy as np
import pytest

from icechunk.errors import InvalidInputError
from icechunk.lake.filters import compiled_filter
from tests.lake.conftest import make_array

DOCUMENT = {
    "flags": [{"spec": ["a", "b", "red"]}],
    "band": "red",
    "someNaN": math.nan,
    "number": 7,
    "eo:val": 12,
    "created:at:time": "2022-03-01",
}


@pytest.mark.parametrize(
    ("expression", "passes"),
    [
        ("flags[0].spec[0] == 'a'", True),
        ("flags[0].spec[0] == 'b'", False),
        ("flags[0].spec[0:2] == ['a', 'b']", True),
        ("flags[0].spec[2] == band", True),
        (
            "contains(keys(@), 'flags') && contains(keys(@), 'band') && flags[0].spec[2] == band",
            True,
        ),
        ("someNaN == 'NaN'", True),
        ("someNaN == NaN", False),
        ("number >= `3` && number <= `15`", True),
        ("number >= `8`", False),
        ('"eo:val" == `12`', True),
        ('"created:at:time" <= `2022-05-01`', True),
        ("(!flags == `5` || flags == `10`) && foo == `10`", False),
        ("foo == bar", True),
        ('contains(keys(@), "foo") && contains(keys(@), "bar") && foo == bar', False),
        ("foo", False),
        ("number > 'a'", False),
        ("number > 'a' || band == 'red'", True),
        ("`0`", True),
        ("`[]`", False),
        ("''", False),
    ],
)
def test_rules_of_the_document(expression, passes):
    try:
        found = compiled_filter(expression)(DOCUMENT)
    except InvalidInputError:
        # A key that is no text makes contains() fail, as the document's own example does.
        assert '"foo"' in expression
        return
    assert found is passes


@pytest.mark.parametrize("expression", ["", "a ==", "eo:val == `12`", "unknown(@)", 3, None])
def test_what_is_no_expression(expression):
    with pytest.raises(InvalidInputError, match="JMESPath"):
        compiled_filter(expression)(DOCUMENT)


def test_arrays_and_groups_of_a_repository(repo):
    make_array(repo, "t", attributes={"units": "K", "gap": math.nan})
    make_array(repo, "deep/u", attributes={"units": "m/s"})
    assert repo.filter_metadata("units == 'K'") == ["/t"]
    assert repo.filter_metadata("gap == 'NaN'") == ["/t"]
    assert repo.filter_metadata("units") == ["/deep/u", "/t"]
    commit = repo.commit("arrays")
    repo.checkout(commit, for_writing=False)
    assert repo.filter_metadata("units == 'm/s'") == ["/deep/u"]
    assert np.isnan(repo.root_group["t"].attrs["gap"])
