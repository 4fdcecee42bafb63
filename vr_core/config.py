"""The one loader and validator for recipes, inventories, command-line overrides and search spaces.

Four doors (YAML file, `key=value`, Tune's space, Python) end in the same pydantic validation. Precedence:
defaults < file < overrides. No includes, no interpolation, no environment lookups. No torch, no ray here.
"""

import copy
import difflib
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from vr_core.errors import ConfigError
from vr_core.small_files import DEPTH, DamagedFile, printable, read_text, require_shallow


class Spec(BaseModel):
    """Base of every schema: frozen, keyword-only, unknown keys refused, text never taken for a number."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    removed_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that the schema once had at its top: `validate` passes over them."""


Line = Annotated[str, AfterValidator(printable)]
"""Text for people in a file that somebody else may have written: never more than a line."""


AnySpec = TypeVar("AnySpec", bound=Spec)


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
            shown = f"the key {json.dumps(key, default=str)}" if not isinstance(key, list | dict) else _kind(key)
            wrong = f"{shown} is not text; put quotes around it"
        elif key in seen:
            wrong = f"the key {key!r} stands twice"
        if wrong:
            raise yaml.constructor.ConstructorError(None, None, wrong, node.value[i][0].start_mark)
        seen.add(key)
    return {k: loader.construct_object(v, deep=True) for k, (_, v) in zip(keys, node.value, strict=True)}


def _text_yaml12(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only double quotes keep characters such as U+0085, which PyYAML takes for a line's end when it reads.
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Yaml12Dumper.add_representer(str, _text_yaml12)
_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _int_yaml12)
_Yaml12Loader.add_constructor("tag:yaml.org,2002:float", _float_yaml12)
_Yaml12Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)


def parse_yaml(text: str, origin: str) -> Any:
    """Value of a YAML 1.2 document.

    Raises:
        ConfigError: not YAML, or an alias, a key that is not text, more than `YAML_BYTES` or `DEPTH` levels in it;
            `origin` (a path or "command line") and the line are named.
    """
    if len(text) > YAML_BYTES:
        raise ConfigError(f"{origin}: longer than {YAML_BYTES / 1e6:.0f} MB; it is not a file that vr reads")
    try:
        return yaml.load(text, Loader=_Yaml12Loader)  # noqa: S506 - derives from SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{origin}{where}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, KeyError, OverflowError) as error:  # the last two: `!!int x`, `!!bool x`
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Mapping at the top of the YAML file `path`.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML or not a mapping.
    """
    try:
        text = read_text(path, YAML_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except DamagedFile as error:
        raise ConfigError(str(error)) from None
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected `key: value` lines at the top, found {_kind(value)}")
    return value


def override(raw: Mapping[str, Any], dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Copy of the nested mapping `raw` with each dotted key set; missing levels are made."""
    result = copy.deepcopy(dict(raw))
    for key, value in dotted.items():
        *parents, last = key.split(".")
        level = result
        for depth, parent in enumerate(parents):
            child = level.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(
                    f"{key}: {'.'.join(parents[: depth + 1])} is {_kind(child)}, so it has no key {last!r}"
                )
            level = child
        level[last] = copy.deepcopy(value)
    return result


def parse_overrides(arguments: Iterable[str]) -> dict[str, Any]:
    """`["optim.lr=1e-3", "data=songs"]` as `{"optim.lr": 0.001, "data": "songs"}`; values are YAML 1.2."""
    result: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key or not all(key.split(".")):
            raise ConfigError(f"{argument!r}: expected key=value, for example optim.lr=1e-3")
        result[key] = parse_yaml(value, f"command line: {key}")
    return result


def validate(spec: type[AnySpec], raw: Mapping[str, Any], origin: str) -> AnySpec:
    """`raw` as a `spec`.

    Raises:
        ConfigError: one line with every problem: `origin: key: what is wrong`, with the nearest known key.
    """
    if spec.removed_keys and isinstance(raw, Mapping):
        raw = {key: value for key, value in raw.items() if key not in spec.removed_keys}
    try:
        require_shallow(raw, origin)
        # Through JSON: strict there still means "no text as a number", but lists become tuples and text becomes paths.
        return spec.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        problems = [_problem(spec, raw, e["loc"], e["type"], e["msg"]) for e in error.errors(include_url=False)]
        raise ConfigError(f"{origin}: " + "; ".join(dict.fromkeys(problems))) from None
    except ValueError as error:  # a number of more digits than Python writes; too many levels
        raise ConfigError(f"{origin}: {str(error).removeprefix(f'{origin}: ')}") from None


def load(spec: type[AnySpec], path: Path, overrides: Iterable[str] = ()) -> AnySpec:
    """The YAML file `path` with `key=value` overrides, validated as `spec`.

    Raises:
        ConfigError: as `read_yaml`, `parse_overrides` and `validate`.
    """
    return validate(spec, override(read_yaml(path), parse_overrides(overrides)), str(path))


def to_yaml(spec: Spec) -> str:
    """The resolved spec, every default written out, in the order of the schema; `load` reads it back equal."""
    return yaml.dump(plain(spec), Dumper=_Yaml12Dumper, sort_keys=False, allow_unicode=True)


def plain(spec: Spec) -> dict[str, Any]:
    """The resolved spec as JSON-ready values."""
    value: dict[str, Any] = spec.model_dump(mode="json", by_alias=True)
    return value


def digest(value: Any, length: int = 8) -> str:
    """First hex digits of the SHA-256 of a JSON-ready value; equal values give equal digests."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def identity(
    resolved: Mapping[str, Any],
    *,
    without: Iterable[str] = (),
    added: Mapping[str, Any] | None = None,
    removed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What to digest of a resolved spec, such that its digest outlives changes of the schema.

    Every resolved spec of before holds all the defaults of its time. So a key that was added since is left out at its
    default, and one that was removed is put back with the value that it had there.

    Dotted keys, as in `override`. `model:plain_stack.width` is the key of a section whose `name` is that, and of no
    other. Tables grow at their end: the newest change is undone first. Who removes a key of `added` takes it out.

    Args:
        resolved: as `plain` gives it; stays as it is.
        without: keys at the top that are no part of the identity.
        added: key → its default, as `plain` gives it.
        removed: key → the value that a resolved spec held where nobody had set it.
    """
    value: dict[str, Any] = copy.deepcopy(dict(resolved))
    for key in without:
        value.pop(key, None)
    for key, default in reversed([*(added or {}).items()]):
        section, last = _section(value, key)
        if last in section and section[last] == default:
            del section[last]
    for key, default in reversed([*(removed or {}).items()]):
        section, last = _section(value, key)
        section.setdefault(last, copy.deepcopy(default))
    return value


def _section(value: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The mapping that holds a dotted key, and the key in it; a mapping of nobody's where there is none."""
    *parents, last = key.split(".")
    for parent in parents:
        name, _, kind = parent.partition(":")
        child = value.get(name)
        if not isinstance(child, dict) or (kind and child.get("name") != kind):
            return {}, last
        value = child
    return value, last


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "a mapping", list: "a list", str: "text", bool: "true/false"}.get(type(value), "a number")


def _problem(spec: type[Spec], raw: Any, loc: tuple[int | str, ...], kind: str, message: str) -> str:
    """One pydantic error as `key: message`; the tags of unions, which pydantic puts into the path, are dropped."""
    path: list[str] = []
    value: Any = raw
    owners: list[Any] = [spec]
    for part in loc[:-1] if kind in ("extra_forbidden", "missing") else loc:
        if isinstance(value, Mapping) and part in value or isinstance(value, list) and isinstance(part, int):
            value = value[part]  # type: ignore[index]
            path.append(str(part))
            owners = [t for owner in owners for t in _field_types(owner, part)]
        else:
            tagged = [o for o in owners if isinstance(o, type) and issubclass(o, Spec) and _has_tag(o, part)]
            owners = tagged or owners
    if kind == "extra_forbidden":
        known = {
            f.alias or n
            for o in owners
            if isinstance(o, type) and issubclass(o, Spec)
            for n, f in o.model_fields.items()
        }
        near = difflib.get_close_matches(str(loc[-1]), sorted(known), n=1, cutoff=0.5)
        prefix = ".".join([*path, ""]) if path else ""
        hint = f" (did you mean {prefix}{near[0]}?)" if near else f" (known: {', '.join(sorted(known))})"
        return f"{prefix}{loc[-1]}: unknown key{hint}"
    if kind == "union_tag_not_found":
        # pydantic says "Unable to extract tag using discriminator 'name'".
        return f"{'.'.join([*path, 'name'])}: missing; say which kind the other keys belong to"
    if kind == "missing":
        return f"{'.'.join([*path, str(loc[-1])])}: missing"
    shown = "" if isinstance(value, Mapping | list) or value is raw else f", got {value!r}"
    message = message.removeprefix("Value error, ").replace("Input should", "should")
    return f"{'.'.join(path)}: {message}{shown}" if path else f"{message}{shown}"


def _has_tag(owner: type[Spec], tag: object) -> bool:
    return any(tag in typing.get_args(f.annotation) for f in owner.model_fields.values())


def _field_types(owner: Any, part: int | str) -> list[Any]:
    """The schema types that the value under key or index `part` of an `owner` may have."""
    if isinstance(owner, type) and issubclass(owner, Spec):
        field: FieldInfo | None = owner.model_fields.get(str(part)) or next(
            (f for f in owner.model_fields.values() if f.alias == part), None
        )
        return _leaves(field.annotation) if field else []
    arguments = [a for a in typing.get_args(owner) if a is not Ellipsis]  # of tuple[X, ...]
    return _leaves(arguments[-1]) if typing.get_origin(owner) in (dict, list, tuple) and arguments else []


def _leaves(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _leaves(typing.get_args(annotation)[0])
    if origin is typing.Union or origin is types.UnionType:
        return [leaf for argument in typing.get_args(annotation) for leaf in _leaves(argument)]
    return [annotation]


def is_finite_number(value: object) -> bool:
    """True for an int or float that is neither NaN nor infinite (bool is not a number here)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
