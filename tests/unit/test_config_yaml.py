"""The stored configuration as YAML."""

from __future__ import annotations

import contextlib
import json
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.errors import ErrorKind, FormatError
from icechunk.persisted_conditions import Tagged
from icechunk.persisted_config import from_persisted, to_persisted
from icechunk.persisted_yaml import config_to_yaml, yaml_to_config
from tests.shared_data import shared_dir

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text())


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            SCALARS,
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.text(max_size=5), inner, max_size=3),
                st.tuples(st.sampled_from(["s3", "or", "Axis"]), inner).map(
                    lambda case: Tagged({case[0]: case[1]}) if _content(case[1]) else case[1]
                ),
            ),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_what_is_written_is_read(config):
    assert yaml_to_config(config_to_yaml(config)) == config


def _content(value):
    return isinstance(value, dict | list | int) and not isinstance(value, bool | Tagged)


def test_the_golden_file_is_the_golden_config():
    golden = shared_dir() / "golden"
    said = json.loads((golden / "config.json").read_text())
    with tarfile.open(golden / "v1-config.tar.gz") as archive:
        member = archive.extractfile("v1-config/config.yaml")
        assert member is not None
        data = member.read()
    assert data.decode() == said["v1-config"]["config_yaml_text"]
    read = yaml_to_config(data)
    assert read == said["v2-config"]["persisted_structure"]
    config = from_persisted(read)
    assert from_persisted(yaml_to_config(config_to_yaml(to_persisted(config)))) == config


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("2001-01-01", "2001-01-01"),
        ("1e3", "1e3"),
        ("'true'", "true"),
        ("true", True),
        ("~", None),
        ("", None),
        ("!Axis 3", {"Axis": 3}),
        ("!Axis '3'", {"Axis": "3"}),
        ("!local_file_system /a b", {"local_file_system": "/a b"}),
        ("!and ['true', !num_refs {from: Unbounded}]", None),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    found = yaml_to_config(f"key: {text}".encode())["key"]
    if text.startswith("!and"):
        value = {"and": ["true", {"num_refs": {"from": "Unbounded"}}]}
    assert found == value
    assert type(found) is type(value) or isinstance(found, Tagged)


@pytest.mark.parametrize(
    "data",
    [
        b"a: &x [1]\nb: *x",
        b"a: 1\na: 2",
        b"- 1",
        b"just text",
        b"{[1]: 2}",
        b"a: !!python/object/apply:os.system ['true']",
        b"a: !!binary aGk=\nb: {",
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b"a: \x01",
        b"x" * (16 * 2**20 + 1),
    ],
    ids=range(11),
)
def test_damage_is_a_format_error(data):
    with pytest.raises(FormatError) as caught:
        yaml_to_config(data)
    assert caught.value.kind == ErrorKind.CONFIG_DESERIALIZATION


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_bytes_raise_anything_else(data):
    with contextlib.suppress(FormatError):
        from_persisted(yaml_to_config(data))
