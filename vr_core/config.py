"""The one loader and validator for recipes, inventories, command-line overrides and search spaces.

Four doors (YAML file, `key=value`, Tune's space, Python) end in the same pydantic validation. Precedence:
defaults < file < overrides. No includes, no interpolation, no environment lookups. No torch, no ray here.
"""

import copy
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from vr_core.errors import ConfigError
from vr_core.small_files import printable, require_shallow
from vr_core.yaml12 import dump_yaml, kind_of, parse_yaml, read_yaml


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
                    f"{key}: {'.'.join(parents[: depth + 1])} is {kind_of(child)}, so it has no key {last!r}"
                )
            level = child
        level[last] = copy.deepcopy(value)
    return result


def parse_overrides(arguments: Iterable[str], spec: type[Spec] | None = None) -> dict[str, Any]:
    """`["optim.lr=1e-3", "data=songs"]` as `{"optim.lr": 0.001, "data": "songs"}`.

    Values are YAML 1.2, but for keys that are a text or a path in `spec`: those are taken as they stand, since a folder
    may be called `Runs #2`, `2024` or `null`. Nothing behind the `=` is no value, where the key can do without.
    """
    result: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key or not all(key.split(".")):
            raise ConfigError(f"{argument!r}: expected key=value, for example optim.lr=1e-3")
        kinds = _kinds(spec, key)
        if kinds and all(kind in _AS_IT_STANDS for kind in kinds):
            if not value and types.NoneType not in kinds:
                raise ConfigError(f"{argument!r}: expected something behind the =")
            result[key] = value or None
        else:
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
    return validate(spec, override(read_yaml(path), parse_overrides(overrides, spec)), str(path))


def to_yaml(spec: Spec) -> str:
    """The resolved spec, every default written out, in the order of the schema; `load` reads it back equal."""
    return dump_yaml(plain(spec))


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


_AS_IT_STANDS = (str, Path, types.NoneType)


def _kinds(spec: type[Spec] | None, key: str) -> list[Any]:
    """The schema types that the value of a dotted key of `spec` may have."""
    owners: list[Any] = [spec]
    for part in key.split("."):
        owners = [kind for owner in owners for kind in _field_types(owner, part)]
    return owners


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
