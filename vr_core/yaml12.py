"""YAML 1.2 as our files have it: the core schema's scalars, keys that are text, no aliases, limited size and depth."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from vr_core.errors import ConfigError
from vr_core.small_files import DEPTH, DamagedFile, read_text

YAML_BYTES = 1 << 20
"""More is no recipe and no inventory."""


class _Yaml12Loader(yaml.SafeLoader):
    """PyYAML with the YAML 1.2 core schema's scalars: `1e-4` is a number; `no`, `on` and `12:30` are text.

    Aliases are refused (nine lines of them stand for a billion values), and what is more than `DEPTH` levels deep.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node, one level deeper."""
        self._depth += 1
        try:
            if self.check_event(yaml.AliasEvent):
                raise yaml.MarkedYAMLError(problem="an alias; write its value out", problem_mark=self.get_mark())
            if self._depth > DEPTH:
                raise yaml.MarkedYAMLError(problem=f"more than {DEPTH} levels deep", problem_mark=self.get_mark())
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _WithTuples(_Yaml12Loader):
    """Reads PyYAML's tag for a tuple as a list: trainers of others write it. All other such tags are refused."""


class _Yaml12Dumper(yaml.SafeDumper):
    """Quotes exactly the text that the loader would read as something else: PyYAML's own leaves `1e-4` bare."""


_CORE = (None, *(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")))
_Yaml12Loader.yaml_constructors = {  # the core schema's, and the one that refuses all others
    tag: constructor for tag, constructor in yaml.SafeLoader.yaml_constructors.items() if tag in _CORE
}
_Yaml12Loader.yaml_implicit_resolvers = {}
_Yaml12Dumper.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    for _reader_or_writer in (_Yaml12Loader, _Yaml12Dumper):
        _reader_or_writer.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})\Z"), list(_first)
        )


def _int_yaml12(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    # int(text, 0) refuses "010", which YAML 1.2 reads as decimal ten.
    return int(text, 0) if text.lstrip("+-")[:2] in ("0o", "0x") else int(text, 10)


def _float_yaml12(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    # Python knows "inf" and "nan" without YAML's dot, in any case; a dot before a digit stays.
    return float(re.sub(r"\.(?=[a-z])", "", loader.construct_scalar(node), flags=re.IGNORECASE))


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    seen: set[str] = set()
    for i, key in enumerate(keys):
        wrong = None
        if not isinstance(key, str):
            shown = f"the key {json.dumps(key, default=str)}" if not isinstance(key, list | dict) else kind_of(key)
            wrong = f"{shown} is not text; put quotes around it"
        elif key in seen:
            wrong = f"the key {key!r} stands twice"
        if wrong:
            raise yaml.constructor.ConstructorError(None, None, wrong, node.value[i][0].start_mark)
        seen.add(key)
    return {k: loader.construct_object(v, deep=True) for k, (_, v) in zip(keys, node.value, strict=True)}


def _list_of_tuple(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


def _text_yaml12(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only double quotes keep characters such as U+0085, which PyYAML takes for a line's end when it reads.
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Yaml12Dumper.add_representer(str, _text_yaml12)
_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _int_yaml12)
_Yaml12Loader.add_constructor("tag:yaml.org,2002:float", _float_yaml12)
_Yaml12Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)
_WithTuples.add_constructor("tag:yaml.org,2002:python/tuple", _list_of_tuple)


def parse_yaml(text: str, origin: str, *, tuples: bool = False) -> Any:
    """Value of a YAML 1.2 document; with `tuples`, PyYAML's tag for a tuple is read as a list.

    Raises:
        ConfigError: not YAML, or an alias, a key that is not text, more than `YAML_BYTES` or `DEPTH` levels in it;
            `origin` (a path or "command line") and the line are named.
    """
    if len(text) > YAML_BYTES:
        raise ConfigError(f"{origin}: longer than {YAML_BYTES / 1e6:.0f} MB; it is not a file that vr reads")
    try:
        return yaml.load(text, Loader=_WithTuples if tuples else _Yaml12Loader)  # noqa: S506 - of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{origin}{where}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, KeyError, OverflowError) as error:  # as of `!!int x`, `!!bool x`
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path, *, tuples: bool = False) -> dict[str, Any]:
    """Mapping at the top of the YAML file `path`; `tuples` as in `parse_yaml`.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML or not a mapping.
    """
    try:
        text = read_text(path, YAML_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except DamagedFile as error:
        raise ConfigError(str(error)) from None
    value = parse_yaml(text, str(path), tuples=tuples)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected `key: value` lines at the top, found {kind_of(value)}")
    return value


def dump_yaml(value: Any) -> str:
    """JSON-ready `value` as a YAML 1.2 document that `parse_yaml` reads back equal; keys stay in their order."""
    return yaml.dump(value, Dumper=_Yaml12Dumper, sort_keys=False, allow_unicode=True)


def kind_of(value: Any) -> str:
    """What `value` is, as a message names it."""
    if value is None:
        return "nothing"
    return {dict: "a mapping", list: "a list", str: "text", bool: "true/false"}.get(type(value), "a number")
