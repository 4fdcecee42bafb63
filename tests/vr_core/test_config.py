import contextlib
import copy
import functools
import math
import tracemalloc
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from vr_core import config
from vr_core.config import Spec, load, override, parse_overrides, to_yaml, validate
from vr_core.errors import ConfigError
from vr_core.specs.objectives import MaskedFramesSpec
from vr_core.specs.optim import OptimSpec
from vr_core.specs.stft import StftSpec
from vr_core.yaml12 import parse_yaml

# YAML 1.2.2, section 10.3.2 (core schema): the tag resolution table, and what YAML 1.1 would read differently.
SCALARS = [
    ("null", None), ("Null", None), ("NULL", None), ("~", None), ("", None),
    ("true", True), ("True", True), ("TRUE", True), ("false", False), ("False", False), ("FALSE", False),
    ("0", 0), ("-12", -12), ("+7", 7), ("010", 10), ("0o14", 12), ("0x3A", 58),
    ("1e-4", 1e-4), ("1E5", 1e5), ("1e+3", 1e3), (".5", 0.5), ("5.", 5.0), ("-.5e+2", -50.0), ("12e03", 12000.0),
    (".inf", math.inf), ("-.Inf", -math.inf), ("+.INF", math.inf),
    ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"), ("nULL", "nULL"), ("tRUE", "tRUE"),
    ("12:30", "12:30"), ("1_000", "1_000"), ("0b1", "0b1"), ("0o9", "0o9"), ("-0x1F", "-0x1F"), ("1e", "1e"),
    ("2001-12-14", "2001-12-14"), ("<<", "<<"), ("=", "="), ("-.nan", "-.nan"), ("+", "+"), (".", "."), ("inf", "inf"),
]  # fmt: skip


class Circle(Spec):
    shape: Literal["circle"] = "circle"
    radius: Annotated[float, Field(gt=0)] = 1.0


class Square(Spec):
    shape: Literal["square"] = "square"
    side: int = 1


class Drawing(Spec):
    title: str
    figure: Annotated[Circle | Square, Field(discriminator="shape")] = Circle()
    rates: tuple[float, ...] = ()
    folder: Path | None = None
    labels: dict[str, str] = {}
    deep: StftSpec = StftSpec()


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_are_read_as_yaml_1_2_has_them(text, value):
    read = parse_yaml(f"key: {text}", "test")["key"]
    assert (type(read), read) == (type(value), value)


def test_nan_is_a_number_that_no_schema_takes():
    assert math.isnan(parse_yaml(".NaN", "test"))
    with pytest.raises(ConfigError, match="figure.radius"):
        validate(Drawing, {"title": "x", "figure": {"shape": "circle", "radius": math.nan}}, "test")


@pytest.mark.parametrize(
    "text", ["[", "a: 1\na: 2", "{[1]: 2}", "a: &x [*x]", "!!bool x", "!!int x", "!!python/name:os.system", "\0"]
)
def test_what_is_not_yaml_names_its_origin(text):
    with pytest.raises(ConfigError, match=r"^song\.yaml(:\d+)?: not valid YAML: "):
        parse_yaml(text, "song.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: &x 2\nc: *x", ":3: not valid YAML: an alias; write its value out"),
        ("a: 1\n2024: b", ":2: not valid YAML: the key 2024 is not text; put quotes around it"),
        ("{~: 1}", ":1: not valid YAML: the key null is not text; put quotes around it"),
        ("{" + "a: {" * 49 + "b: {}" + "}" * 50, ": not valid YAML: more than 50 levels deep"),
        ("[" * 100_000, ": not valid YAML: more than 50 levels deep"),
        ("a: !!binary aGk=", ": not valid YAML: could not determine a constructor"),
        ("a: " + "9" * 5000, ": not valid YAML: Exceeds the limit"),
        ("#" * ((1 << 20) + 1), ": longer than 1 MB; it is not a file that vr reads"),
    ],
)
def test_what_would_grow_or_is_no_plain_data_is_refused(text, said):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "a.yaml")
    assert said in str(caught.value)


def test_a_few_lines_take_little_memory():
    """Ten levels of nine aliases each stand for 3,486,784,401 values."""
    levels = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 11))]
    tracemalloc.start()
    with pytest.raises(ConfigError, match="alias"):
        parse_yaml("\n".join(levels), "roots.yaml")
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_depth_that_may_be_is_read():
    assert parse_yaml("{" + "a: {" * 48 + "b: 1" + "}" * 49, "a.yaml")


@pytest.mark.parametrize(
    "value", [10**5000, functools.reduce(lambda inner, _: [inner], range(5000), [])], ids=["digits", "levels"]
)
def test_values_from_python_are_refused_in_one_line_too(value):
    with pytest.raises(ConfigError, match=r"^here: ") as caught:
        validate(Drawing, {"title": value}, "here")
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet=st.sampled_from("ab1e.-+:[]{}?&*!'\"\n ,~#|>%@`\t"), max_size=30))
def test_no_text_gets_past_the_parser_as_another_error(text):
    with contextlib.suppress(ConfigError):
        validate(Drawing, {"title": parse_yaml(text, "test")}, "test")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for name, content, reason in [
        ("none", None, "No such file"),
        ("bytes", b"\xff", "not UTF-8"),
        ("list", b"- 1", "list"),
    ]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=f"^{path}: .*{reason}"):
            config.read_yaml(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"titel": "x"}, "titel: unknown key (did you mean title?)"),
        ({"deep": {"hopp": 2}}, "deep.hopp: unknown key (did you mean deep.hop?)"),
        ({"figure": {"shape": "circle", "radios": 2}}, "figure.radios: unknown key (did you mean figure.radius?)"),
        ({"figure": {"shape": "square", "zzzz": 2}}, "figure.zzzz: unknown key (known: shape, side)"),
        ({"title": 3}, "title: should be a valid string, got 3"),
        ({"rates": [1.0, "2"]}, "rates.1: should be a valid number, got '2'"),
        ({"figure": {"shape": "circle", "radius": 0}}, "figure.radius: should be greater than 0, got 0"),
        ({"figure": {"shape": "square", "side": 1.5}}, "figure.side: should be a valid integer, got 1.5"),
        ({"figure": {"shape": "square", "side": True}}, "figure.side: should be a valid integer, got True"),
        ({"deep": {"hop": 15, "n_fft": 2048}}, "deep.hop: should be greater than or equal to 16, got 15"),
        ({"deep": {"hop": 2000}}, "deep: n_fft must be even and at least 2 × hop, got n_fft 2048 and hop 2000"),
    ],
)
def test_a_problem_is_told_by_its_key(raw, message):
    with pytest.raises(ConfigError) as caught:
        validate(Drawing, {"title": "a title", **raw}, "d.yaml")
    assert str(caught.value) == f"d.yaml: {message}"


def test_an_unknown_tag_of_a_union_names_the_known_ones():
    with pytest.raises(ConfigError, match="figure: .*'oval'.*'circle', 'square'"):
        validate(Drawing, {"title": "y", "figure": {"shape": "oval"}}, "test")


def test_all_problems_come_at_once():
    with pytest.raises(ConfigError) as caught:
        validate(Drawing, {"figure": {"shape": "circle", "radius": -1}, "rates": ["x"], "lables": {}}, "test")
    assert [part.split(":")[0] for part in str(caught.value).removeprefix("test: ").split("; ")] == [
        "title", "figure.radius", "rates.0", "lables",
    ]  # fmt: skip


def test_an_override_sets_one_key_and_leaves_the_rest_and_the_original():
    raw = {"optim": {"lr": 1, "betas": [1, 2]}, "data": "a"}
    changed = override(raw, {"optim.lr": 2, "batch.items": 3})
    assert changed == {"optim": {"lr": 2, "betas": [1, 2]}, "data": "a", "batch": {"items": 3}}
    changed["optim"]["betas"].append(3)
    assert raw == {"optim": {"lr": 1, "betas": [1, 2]}, "data": "a"}


def test_an_override_below_a_plain_value_is_refused():
    with pytest.raises(ConfigError, match=r"optim\.lr\.x: optim\.lr is a number, so it has no key 'x'"):
        override({"optim": {"lr": 1}}, {"optim.lr.x": 2})


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "optim.yaml"
    path.write_text("lr: 2e-3\nwarmup_steps: 5\n")
    spec = load(OptimSpec, path, ["lr=1e-4", "betas=[0.8, 0.9]", "decay=linear"])
    assert (spec.lr, spec.warmup_steps, spec.betas, spec.decay) == (1e-4, 5, (0.8, 0.9), "linear")
    assert spec.clip_norm == OptimSpec().clip_norm


def test_the_value_of_an_override_may_hold_equals_signs_and_be_empty():
    assert parse_overrides(["a=b=c", "b=", "c.d=1e-4"]) == {"a": "b=c", "b": None, "c.d": 1e-4}


@pytest.mark.parametrize("argument", ["lr", "=1", "a..b=1", ".a=1", "a.=1"])
def test_an_override_without_a_key_is_refused(argument):
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_overrides([argument])


# Text that another reader would take for a number, a truth value or a date is among the examples on purpose.
TEXT = st.one_of(
    st.sampled_from([text for text, _ in SCALARS]), st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
DRAWINGS = st.builds(
    Drawing,
    title=TEXT,
    figure=st.one_of(
        st.builds(Circle, radius=FINITE.filter(lambda x: x > 0)), st.builds(Square, side=st.integers(-9, 2**53))
    ),
    rates=st.lists(FINITE, max_size=3).map(tuple),
    folder=st.sampled_from([None, Path("a b/c"), Path("1e5"), Path("/tmp/no")]),
    labels=st.dictionaries(TEXT, TEXT, max_size=3),
)


@settings(deadline=None, max_examples=100)
@given(DRAWINGS)
def test_what_is_written_reads_back_equal(drawing):
    text = to_yaml(drawing)
    assert validate(Drawing, parse_yaml(text, "text"), "text") == drawing
    assert config.digest(config.plain(drawing)) == config.digest(
        config.plain(validate(Drawing, parse_yaml(text, "t"), "t"))
    )


def test_equal_values_have_equal_digests_whatever_their_order():
    assert config.digest({"a": 1, "b": [1, 2]}) == config.digest({"b": [1, 2], "a": 1})
    assert config.digest({"a": 1, "b": [1, 2]}) != config.digest({"a": 1, "b": [2, 1]})
    assert config.digest({"a": 1}, 12).startswith(config.digest({"a": 1}))


TREES = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        st.integers(0, 2), lambda t: st.dictionaries(st.sampled_from("abc"), t, min_size=1, max_size=3), max_leaves=6
    ),
    min_size=1,
    max_size=3,
)


def paths(tree, of, prefix=""):
    """Dotted keys of a nested mapping whose values are of a kind."""
    for key, value in tree.items():
        if isinstance(value, of):
            yield prefix + key
        if isinstance(value, dict):
            yield from paths(value, of, f"{prefix}{key}.")


def at(tree, path):
    for key in path.split(".") if path else ():
        tree = tree[key]
    return tree


@given(TREES, st.data())
def test_an_identity_outlives_any_additions_and_removals(before, data):
    now, added, removed = copy.deepcopy(before), {}, {}
    for number in range(data.draw(st.integers(0, 6))):
        own = [p for p in paths(now, (int, dict)) if not any(f"{p}.".startswith(f"{a}.") for a in added)]
        if data.draw(st.booleans()) or not own:
            where, default = data.draw(st.sampled_from(["", *paths(now, dict)])), data.draw(TREES | st.integers(0, 2))
            at(now, where)[f"new{number}"] = copy.deepcopy(default)
            added[f"{where}.new{number}".lstrip(".")] = default
        else:
            path = data.draw(st.sampled_from(own))
            # The table says what a recipe of before held: nothing of what came into the section since.
            added = {a: d for a, d in added.items() if not a.startswith(f"{path}.")}
            parent, _, last = path.rpartition(".")
            removed[path] = _without_news(at(now, path))
            del at(now, parent)[last]
    assert config.identity(now, added=added, removed=removed) == before


def _without_news(value):
    if not isinstance(value, dict):
        return value
    return {key: _without_news(inner) for key, inner in value.items() if not key.startswith("new")}


def test_what_a_key_of_later_says_is_a_part_of_an_identity():
    """At its default it changes nothing; a removed key counts with what it had by default, and paths never count."""
    before = {"lr": 1, "data": "/a", "thin": {"rank": 4}}
    changed = {"without": ("data",), "added": {"new": None, "more.at": 0}, "removed": {"thin": {"rank": 4}}}
    assert config.identity({"lr": 1, "data": "/b", "new": None}, **changed) == {"lr": 1, "thin": {"rank": 4}}
    assert config.identity({"lr": 1, "more": None, "new": [3]}, **changed)["new"] == [3]
    assert config.identity({"lr": 1, "more": {"at": 0, "x": 1}}, **changed)["more"] == {"x": 1}
    assert config.identity(before, without=("data",)) == {"lr": 1, "thin": {"rank": 4}}
    assert before == {"lr": 1, "data": "/a", "thin": {"rank": 4}}, "the value itself stays"


@pytest.mark.parametrize(("kind", "key"), [("line", {"width": 2}), ("stack", {})])
def test_a_key_of_one_kind_of_section_is_put_back_there_alone(kind, key):
    resolved = {"model": {"name": kind}}
    assert config.identity(resolved, removed={"model:line.width": 2}) == {"model": {"name": kind, **key}}
    assert config.identity({"model": {"name": kind, "width": 2}}, added={"model:stack.width": 2}) == {
        "model": {"name": kind, **({"width": 2} if kind == "line" else {})}
    }


def test_a_spec_is_frozen_and_hashes_by_value():
    spec = MaskedFramesSpec()
    with pytest.raises(ValueError, match="frozen"):
        spec.rate = 0.5  # type: ignore[misc]
    assert hash(spec) == hash(MaskedFramesSpec())


@pytest.mark.parametrize(
    ("spec", "raw", "message"),
    [
        (MaskedFramesSpec, {"ones": 0.8, "noise": 0.3}, "ones \\+ noise must be at most 1"),
        (StftSpec, {"n_fft": 2049}, "n_fft must be even"),
        (OptimSpec, {"betas": [0.9, 1.0]}, "betas.1: should be less than 1"),
    ],
)
def test_specs_refuse_what_makes_no_sense_together(spec, raw, message):
    with pytest.raises(ConfigError, match=message):
        validate(spec, raw, "test")


@pytest.mark.parametrize("value", [True, math.inf, math.nan, "1", None])
def test_only_finite_numbers_are_finite_numbers(value):
    assert not config.is_finite_number(value)
    assert config.is_finite_number(3)
    assert config.is_finite_number(-2.5)


AS_THEY_STAND = [
    "Runs #2", "2024", "~", "null", "true", "1e-4", "a: b", "[x]", "{x}", "'quoted'", '"quoted"', "- x", "&x", "*x",
    "!x", "%x", "@x", "`x`", "| x", "> x", "# x", " x ", "x\ty", "größe", "音楽", "-", "?", "a=b", "\\n",
]  # fmt: skip


@pytest.mark.parametrize("text", AS_THEY_STAND)
def test_a_path_or_text_on_the_command_line_is_taken_as_it_stands(text, tmp_path):
    file = tmp_path / "drawing.yaml"
    file.write_text("title: x\n")
    drawn = load(Drawing, file, [f"title={text}", f"folder={text}", f"labels.rack={text}"])
    assert (drawn.title, drawn.folder, drawn.labels) == (text, Path(text), {"rack": text})
    # In a file the rules of YAML stay: quotes are what keeps it as it is there.
    file.write_text(to_yaml(drawn), encoding="utf-8")
    assert load(Drawing, file) == drawn


@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12))
def test_no_text_on_the_command_line_is_taken_for_something_else(text):
    assert parse_overrides([f"folder={text}", f"title={text}"], Drawing) == {"folder": text, "title": text}


def test_values_of_other_keys_are_yaml_as_before():
    given = [
        "figure.radius=1e-1",
        "rates=[1, 2]",
        "figure={shape: square}",
        "deep.hop=0x10 # as C has it",
        "labels={a: b}",
    ]
    assert parse_overrides(given, Drawing) == {
        "figure.radius": 0.1, "rates": [1, 2], "figure": {"shape": "square"}, "deep.hop": 16, "labels": {"a": "b"},
    }  # fmt: skip


def test_nothing_behind_the_equals_sign_unsets_only_what_may_be_unset():
    assert parse_overrides(["folder="], Drawing) == {"folder": None}
    with pytest.raises(ConfigError, match="'title=': expected something behind the ="):
        parse_overrides(["title="], Drawing)
