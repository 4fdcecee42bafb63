"""Command lines that READMEs and docstrings show, and whether `vr` takes them."""

import re
import shlex

import typer

from jobs import cli


def shown_commands(text: str) -> list[str]:
    """Lines of code blocks, fenced or indented, that run `vr`; continued lines are joined, comments are dropped."""
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(
        r"(?:^ {4}.*\n?)+", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    lines = "\n".join(fenced + indented).replace("\\\n", " ").splitlines()
    return [words for line in lines for words in commands_in(line)]


def commands_in(line: str) -> list[str]:
    """The parts of a shell's line that run `vr`."""
    parts = (part.strip().removeprefix("$ ").removeprefix("uv run ") for part in re.split(r"&&|\||;", line))
    return [words for words in parts if words.startswith("vr ")]


def check(line: str) -> None:
    """Fail unless `line` names a command with options that it has and as many arguments as it takes."""
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(cli.app)
    context = typer.Context(command, info_name="vr")
    while isinstance(command, typer.core.TyperGroup) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{line}: no command {words[0]}"
        command = command.commands[words.pop(0)]
        context = typer.Context(command, info_name=command.name, parent=context)
    given, left, _ = command.make_parser(context).parse_args(words)
    assert not left, f"{line}: too many arguments: {' '.join(left)}"
    if "--help" in words:
        return
    for parameter in command.get_params(context):
        assert not parameter.required or given.get(parameter.name), f"{line}: {parameter.name} is missing"
