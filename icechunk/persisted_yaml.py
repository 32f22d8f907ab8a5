"""The stored configuration as YAML, as version 1 of the format keeps it.

Source: Icechunk specification, section "Repository configuration". A case with content is a tagged
value there, and `Tagged` here. Only what such files need is read: no anchors, no other tags, and
plain scalars as in YAML 1.2, so that words like ``no`` stay text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import yaml

from icechunk.persisted_conditions import Tagged, as_mapping, refuse

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

_MOST_BYTES: Final = 16 * 2**20
_INTEGER: Final = re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,30})$")
_STRING: Final = "tag:yaml.org,2002:str"


class _Loader(yaml.SafeLoader):
    """Reads plain values and tagged cases."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 # of the base

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("anchors are not allowed")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.YAMLError(f"a key is there twice, {node.start_mark}")
        return mapping


def _construct_case(loader: _Loader, suffix: str, node: yaml.Node) -> Tagged:
    content: Any
    if isinstance(node, yaml.ScalarNode):
        number = node.style is None and _INTEGER.match(node.value)
        content = int(node.value) if number else node.value
    elif isinstance(node, yaml.SequenceNode):
        content = loader.construct_sequence(node, deep=True)
    else:
        content = loader.construct_mapping(node, deep=True)
    return Tagged({suffix: content})


_Loader.add_multi_constructor("!", _construct_case)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Writes every text quoted, so that no reader takes it for something else."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True

    def choose_scalar_style(self) -> str:
        event: Any = self.event
        if event.style is None and _INTEGER.match(event.value):
            return ""  # the number in a tagged case: quoted it would be text
        style: str = super().choose_scalar_style()
        return style


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    return dumper.represent_scalar(_STRING, text, style='"')


def _represent_case(dumper: _Dumper, case: Tagged) -> yaml.Node:
    ((name, content),) = case.items()
    node = dumper.represent_data(content)
    node.tag = f"!{name}"
    return node


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(Tagged, _represent_case)


def yaml_to_config(data: bytes) -> Mapping[str, Any]:
    """Return the structure in a ``config.yaml``; see `icechunk.persisted_config.from_persisted`.

    Raises
    ------
    FormatError
        Kind ``config-deserialization``; the file is damaged.
    """
    if len(data) > _MOST_BYTES:
        refuse(f"config.yaml has {len(data)} bytes")
    try:
        found = yaml.load(data, _Loader)  # noqa: S506 # a safe loader
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as e:
        refuse(f"config.yaml: {e}", e)
    return as_mapping({} if found is None else found, "config.yaml")


def config_to_yaml(config: Mapping[str, Any]) -> bytes:
    """Return a structure of `icechunk.persisted_config.to_persisted` as a ``config.yaml``."""
    text: str = yaml.dump(
        dict(config),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=2**31,
    )
    return text.encode()
