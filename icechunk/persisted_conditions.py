"""Conditions as a stored configuration holds them, and the parts such structures are made of.

A case without content is a string, one with content a map of one entry, `Tagged`, so that YAML can
write it as a tagged value.

Source: Icechunk specification, section "Repository configuration".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from icechunk.errors import ErrorKind, FormatError
from icechunk.manifest_conditions import (
    AnyDimCondition,
    AnySplitCondition,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
)
from icechunk.manifest_config import ManifestSplittingConfig
from icechunk.preload_conditions import (
    AlwaysPreload,
    AnyPreloadCondition,
    ManifestPreloadCondition,
    NeverPreload,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


class Tagged(dict[str, Any]):
    """A map of one entry that stands for a case and its content."""


def refuse(what: str, cause: Exception | None = None) -> NoReturn:
    """Raise the FormatError, kind ``config-deserialization``, for a config that cannot be read."""
    raise FormatError(
        f"the stored repository config cannot be read: {what}", ErrorKind.CONFIG_DESERIALIZATION
    ) from cause


def as_mapping(value: object, name: str) -> Mapping[str, Any]:
    """Return the value, or raise FormatError when it is no map."""
    if not isinstance(value, dict):
        refuse(f"{name} should be a map, not {type(value).__name__}")
    return value


def as_list(value: object, name: str) -> list[Any]:
    """Return the value as a list, or raise FormatError when it is none."""
    if not isinstance(value, list | tuple):
        refuse(f"{name} should be a list, not {type(value).__name__}")
    return list(value)


def as_case(value: object, name: str) -> tuple[str, Any]:
    """Return name and content of a case: a string, or a map of one entry."""
    if isinstance(value, str):
        return value, None
    entries = list(as_mapping(value, name).items())
    if len(entries) != 1:
        refuse(f"{name} should name one case, not {len(entries)}")
    return entries[0]


# --- splitting ---------------------------------------------------------------------------------


def persisted_split_sizes(splitting: ManifestSplittingConfig) -> list[Any] | None:
    """Return how splitting rules are stored."""
    if splitting.split_sizes is None:
        return None
    return [
        [
            _split_condition(condition),
            [{"condition": _dim_condition(dim), "num_chunks": size} for dim, size in sizes],
        ]
        for condition, sizes in splitting.split_sizes
    ]


def _split_condition(condition: AnySplitCondition) -> str | Tagged:
    match condition:
        case ManifestSplitCondition.Or(parts):
            return Tagged({"or": [_split_condition(part) for part in parts]})
        case ManifestSplitCondition.And(parts):
            return Tagged({"and": [_split_condition(part) for part in parts]})
        case ManifestSplitCondition.PathMatches(regex):
            return Tagged(path_matches={"regex": regex})
        case ManifestSplitCondition.NameMatches(regex):
            return Tagged(name_matches={"regex": regex})
        case ManifestSplitCondition.AnyArray():
            return "any_array"


def _dim_condition(condition: AnyDimCondition) -> str | Tagged:
    match condition:
        case ManifestSplitDimCondition.Axis(axis):
            return Tagged(Axis=axis)
        case ManifestSplitDimCondition.DimensionName(name):
            return Tagged(DimensionName=name)
        case ManifestSplitDimCondition.Any():
            return "Any"


def splitting_from(stored: Mapping[str, Any]) -> ManifestSplittingConfig:
    """Return the splitting rules that a stored map stands for; FormatError when it is malformed."""
    sizes = stored.get("split_sizes")
    if sizes is None:
        return ManifestSplittingConfig()
    rules = []
    for rule in as_list(sizes, "split_sizes"):
        match as_list(rule, "split_sizes"):
            case [condition, entries]:
                parts = [as_mapping(e, "split_sizes") for e in as_list(entries, "split_sizes")]
                pairs = [
                    (_dim_condition_from(e.get("condition")), e.get("num_chunks", 0)) for e in parts
                ]
                rules.append((_split_condition_from(condition), pairs))
            case other:
                refuse(f"an entry of split_sizes should be a pair, not {len(other)} values")
    return ManifestSplittingConfig(rules)


def _regex(content: object, name: str) -> str:
    regex = as_mapping(content, name).get("regex")
    if not isinstance(regex, str):
        refuse(f"{name} should have a regex")
    return regex


def _split_condition_from(stored: object) -> AnySplitCondition:
    match as_case(stored, "array condition"):
        case "or", parts:
            return ManifestSplitCondition.Or(
                tuple(_split_condition_from(part) for part in as_list(parts, "or"))
            )
        case "and", parts:
            return ManifestSplitCondition.And(
                tuple(_split_condition_from(part) for part in as_list(parts, "and"))
            )
        case "path_matches", content:
            return ManifestSplitCondition.PathMatches(_regex(content, "path_matches"))
        case "name_matches", content:
            return ManifestSplitCondition.NameMatches(_regex(content, "name_matches"))
        case "any_array", _:
            return ManifestSplitCondition.AnyArray()
        case tag, _:
            refuse(f"unknown array condition {tag!r}")


def _dim_condition_from(stored: object) -> AnyDimCondition:
    match as_case(stored, "dimension condition"):
        case "Axis", axis:
            return ManifestSplitDimCondition.Axis(axis)
        case "DimensionName", name:
            return ManifestSplitDimCondition.DimensionName(name)
        case "Any", _:
            return ManifestSplitDimCondition.Any()
        case tag, _:
            refuse(f"unknown dimension condition {tag!r}")


# --- preloading --------------------------------------------------------------------------------


def persisted_preload_condition(  # noqa: PLR0911 # one for each case
    condition: AnyPreloadCondition,
) -> str | Tagged:
    """Return how a preload condition is stored."""
    match condition:
        case ManifestPreloadCondition.Or(parts):
            return Tagged({"or": [persisted_preload_condition(part) for part in parts]})
        case ManifestPreloadCondition.And(parts):
            return Tagged({"and": [persisted_preload_condition(part) for part in parts]})
        case ManifestPreloadCondition.PathMatches(regex):
            return Tagged(path_matches={"regex": regex})
        case ManifestPreloadCondition.NameMatches(regex):
            return Tagged(name_matches={"regex": regex})
        case ManifestPreloadCondition.NumRefs(low, high):
            return Tagged(
                num_refs={
                    "from": "Unbounded" if low is None else Tagged(Included=low),
                    "to": "Unbounded" if high is None else Tagged(Excluded=high),
                }
            )
        case AlwaysPreload():
            return "true"
        case NeverPreload():
            return "false"


def preload_condition_from(  # noqa: PLR0911 # one for each case
    stored: object,
) -> AnyPreloadCondition:
    """Return the condition a stored value stands for; FormatError when it is malformed."""
    match as_case(stored, "preload_if"):
        case "or", parts:
            return ManifestPreloadCondition.Or(
                tuple(preload_condition_from(part) for part in as_list(parts, "or"))
            )
        case "and", parts:
            return ManifestPreloadCondition.And(
                tuple(preload_condition_from(part) for part in as_list(parts, "and"))
            )
        case "path_matches", content:
            return ManifestPreloadCondition.PathMatches(_regex(content, "path_matches"))
        case "name_matches", content:
            return ManifestPreloadCondition.NameMatches(_regex(content, "name_matches"))
        case "num_refs", content:
            bounds = as_mapping(content, "num_refs")
            return ManifestPreloadCondition.NumRefs(
                _bound(bounds.get("from"), "Excluded"), _bound(bounds.get("to"), "Included")
            )
        case "true", _:
            return AlwaysPreload()
        case "false", _:
            return NeverPreload()
        case tag, _:
            refuse(f"unknown preload condition {tag!r}")


def _bound(stored: object, one_further: str) -> int | None:
    """Return a bound as we keep it: the lower one included, the upper one excluded."""
    tag, number = as_case("Unbounded" if stored is None else stored, "num_refs")
    if tag == "Unbounded":
        return None
    if tag not in {"Included", "Excluded"} or not isinstance(number, int):
        refuse(f"unknown bound of num_refs {tag!r}")
    return number + (tag == one_further)
