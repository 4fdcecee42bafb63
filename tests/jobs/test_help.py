"""The help of `vr`, of its groups and of its commands."""

import re
from collections.abc import Iterator

import pytest
import typer

from jobs import cli
from tests.command_line import vr
from tests.shown_commands import check, commands_in

MOST_CHARACTERS = 60
"""Of a command's help in one line: so many have room in 80 columns, beside the longest name of a command."""
UNITS = {
    "s": "seconds", "seconds": "seconds", "gb": "GB", "gib": "GiB", "db": "dB", "hz": "Hz", "gbit": "Gbit/s",
    "mbit": "Mbit/s",
}  # fmt: skip
"""The last word of a parameter's name → what its help must say."""


def tree(
    command: typer.core.TyperCommand | typer.core.TyperGroup, words: str = "vr"
) -> Iterator[tuple[str, typer.core.TyperCommand | typer.core.TyperGroup]]:
    """Every group and every command, with the words that call it."""
    yield words, command
    if isinstance(command, typer.core.TyperGroup):
        for name, child in command.commands.items():
            yield from tree(child, f"{words} {name}")


ALL = dict(tree(typer.main.get_command(cli.app)))
GROUPS = {words: command for words, command in ALL.items() if isinstance(command, typer.core.TyperGroup)}
COMMANDS = {words: command for words, command in ALL.items() if words not in GROUPS}
PARAMETERS = {f"{words} {parameter.name}": (words, parameter) for words in ALL for parameter in ALL[words].params}


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def paragraphs(words: str) -> list[str]:
    """Of the help as it is written, each as one line."""
    return [" ".join(part.split()) for part in (ALL[words].help or "").split("\n\n")]


def record(words: str, parameter: typer.core.TyperOption | typer.core.TyperArgument) -> str:
    """What the help shows of a parameter, beside its name."""
    return parameter.get_help_record(typer.Context(ALL[words], info_name=words))[1]


@pytest.mark.parametrize("words", ALL)
def test_the_help_begins_with_one_line(words):
    first = paragraphs(words)[0]
    assert re.match(r"[A-Z][a-z]+\b.*\.$", first)
    if words != "vr":
        assert len(first) <= MOST_CHARACTERS


@pytest.mark.parametrize("words", GROUPS)
def test_a_group_lists_each_command_with_its_whole_line(words):
    shown = vr(*words.split()[1:], "--help").stdout.partition("\nCommands:\n")[2].splitlines()
    listed = dict(line.split(maxsplit=1) for line in shown)
    assert len(listed) == len(shown) == len(GROUPS[words].commands)
    assert listed == {name: paragraphs(f"{words} {name}")[0] for name in GROUPS[words].commands}


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_shows_an_example_that_can_be_typed(words):
    examples = [part for part in paragraphs(words) if part.startswith("Example: ")]
    assert len(examples) == 1
    assert f"  {examples[0]}" in vr(*words.split()[1:], "--help").stdout.splitlines(), "not in one line"
    (line,) = commands_in(examples[0].removeprefix("Example: "))
    assert line.startswith(words)
    check(line)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_says_what_it_is_its_unit_and_what_happens_without_it(name):
    words, parameter = PARAMETERS[name]
    assert re.match(r"(--)?[A-Za-z]", parameter.help or "")
    unit = UNITS.get(parameter.name.rpartition("_")[2])
    assert unit is None or unit in parameter.help
    is_switch = getattr(parameter, "is_flag", False) and not parameter.secondary_opts
    if not parameter.required and not is_switch:
        assert "default: " in record(words, parameter)
