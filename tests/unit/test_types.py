"""Enumerations, repository status, feature flags, attribution."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta

import pytest

from icechunk.errors import InvalidInputError
from icechunk.types import (
    FEATURE_NAMES,
    Attribution,
    ChecksumAlgorithm,
    ChunkType,
    CompressionAlgorithm,
    FeatureFlag,
    RepoAvailability,
    RepoStatus,
    SpecVersion,
    supported_spec_versions,
)

WHEN = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (ChunkType, {"uninitialized": 0, "native": 1, "virtual": 2, "inline": 3}),
        (SpecVersion, {"v1": 1, "v2": 2}),
        (RepoAvailability, {"online": 0, "read_only": 1}),
        (CompressionAlgorithm, {"Zstd": 0}),
        (
            ChecksumAlgorithm,
            {"Crc32": 0, "Crc32c": 1, "Crc64Nvme": 2, "Sha1": 3, "Sha256": 4},
        ),
    ],
)
def test_enumerations(kind, numbers):
    assert {member.name: int(member) for member in kind} == numbers
    for member in kind:
        assert pickle.loads(pickle.dumps(member)) is member
        assert repr(member).startswith(f"{kind.__name__}.{member.name}")
        assert str(member) == repr(member)


def test_current_version():
    assert SpecVersion.current() is SpecVersion.v2
    assert supported_spec_versions() == [SpecVersion.v2, SpecVersion.v1]
    assert repr(SpecVersion.v1) == "SpecVersion.v1"
    assert repr(SpecVersion.v2) == "SpecVersion.v2 (current)"
    assert CompressionAlgorithm.default() is CompressionAlgorithm.Zstd


def test_status():
    status = RepoStatus(RepoAvailability.read_only, WHEN, "moving")
    assert repr(status) == (
        "<icechunk.repository.RepoStatus>\n"
        "availability: ReadOnly\n"
        "set_at: datetime.datetime(2030,1,1,0,0,0,0, tzinfo=datetime.timezone.utc)\n"
        "limited_availability_reason: moving\n"
    )
    assert pickle.loads(pickle.dumps(status)) == status
    fresh = RepoStatus(RepoAvailability.online)
    assert abs(fresh.set_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert fresh.limited_availability_reason is None
    with pytest.raises(AttributeError):
        fresh.availability = RepoAvailability.read_only
    with pytest.raises(TypeError, match="time zone"):
        RepoStatus(RepoAvailability.online, datetime(2030, 1, 1))


def test_feature_flag():
    flag = FeatureFlag(id=3, name=FEATURE_NAMES[3])
    assert flag.enabled
    assert str(flag) == (
        "<icechunk.config.FeatureFlag>\nid: 3\nname: move_node\ndefault_enabled: True\n"
        "setting: None\nenabled: True\n"
    )
    assert not FeatureFlag(id=4, name="create_tag", setting=False).enabled
    assert FeatureFlag(id=9, name="x", default_enabled=False, setting=True).enabled


def test_attribution():
    who = Attribution(client="app/1.2", workload="nightly run", principal="someone@example.org")
    assert repr(who) == (
        'icechunk.Attribution(\n    client="app/1.2",\n    workload="nightly run",\n'
        '    principal="someone@example.org",\n)'
    )
    assert pickle.loads(pickle.dumps(who)) == who
    with pytest.raises(TypeError):
        Attribution("app")
    with pytest.raises(TypeError):
        Attribution(client=5)
    with pytest.raises(AttributeError):
        who.client = "x"


@pytest.mark.parametrize(
    ("name", "text", "fine"),
    [
        ("client", "a", True),
        ("client", "!#$%&'*+-.^_`|~9Az", True),
        ("client", "a/1", True),
        ("client", "a/1/2", False),
        ("client", "", False),
        ("client", "a b", False),
        ("client", "a/", False),
        ("client", "é", False),
        ("client", "a" * 128, True),
        ("client", "a" * 129, False),
        ("workload", "", True),
        ("workload", " a/b: c, <d> [e] {f} @g?", True),
        ("workload", "é", False),
        ("workload", "a\n", False),
        *[("workload", f"a{c}b", False) for c in '"();=\\\t\x7f'],
        ("principal", "a" * 129, False),
    ],
)
def test_attribution_characters(name, text, fine):
    if fine:
        assert getattr(Attribution(**{name: text}), name) == text
    else:
        with pytest.raises(InvalidInputError, match=name):
            Attribution(**{name: text})
