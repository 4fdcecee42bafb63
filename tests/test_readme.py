"""What the READMEs and guides tell a reader to type exists."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from jobs import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path for pattern in ("*.md", "[!.]*/*.md", ".github/*.md", "tests/bench/*.md") for path in ROOT.glob(pattern)
)


def shown_commands(text: str) -> list[str]:
    """Lines of code blocks, fenced or indented, that run `vr`; continued lines are joined, comments are dropped."""
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(
        r"(?:^ {4}.*\n?)+", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    lines = "\n".join(fenced + indented).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        for part in re.split(r"&&|\||;", line):
            words = part.strip().removeprefix("$ ").removeprefix("uv run ")
            if words.startswith("vr "):
                found.append(words)
    return found


def check(line: str) -> None:
    """Fail unless `line` names a command with options that it has and as many arguments as it takes."""
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(cli.app)
    context = typer.Context(command, info_name="vr")
    while isinstance(command, typer.core.TyperGroup) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{line}: no command {words[0]}"
        command = command.commands[words.pop(0)]
        context = typer.Context(command, info_name=command.name, parent=context)
    given, _, _ = command.make_parser(context).parse_args(words)
    if "--help" in words:
        return
    for parameter in command.get_params(context):
        assert not parameter.required or given.get(parameter.name), f"{line}: {parameter.name} is missing"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_shown_can_be_typed(path):
    for line in shown_commands(path.read_text()):
        check(line)


def test_a_command_that_does_not_exist_is_noticed():
    indented = "    vr --nothing  # why\n    uv run vr nowhere \\\n      x\n"
    text = f"a\n\n{indented}\n```sh\npip install uv && vr --version\n```\n"
    lines = shown_commands(text)
    assert sorted(line.split()[1] for line in lines) == ["--nothing", "--version", "nowhere"]
    check("vr --version")
    with pytest.raises(AssertionError, match="no command nowhere"):
        check("vr nowhere x")
    with pytest.raises(Exception, match="--nothing"):
        check("vr --nothing")
