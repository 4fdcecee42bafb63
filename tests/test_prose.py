"""The READMEs have short paragraphs and short lines; code, tables and lines that are a link do not count."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.pages import PAGES, ROOT

PROSE = [page for page in PAGES if page != "CHANGELOG.md"]
"""A changelog is looked things up in."""

MOST_WORDS = 90
MOST_CHARACTERS = 120

FENCE = re.compile(r"\s*(```|~~~)")
INDENTED = re.compile(r" {4}|\t")
TABLE_ROW = re.compile(r"\s*\|")
HEADING = re.compile(r"#{1,6} ")
LINK_ALONE = re.compile(r"\s*(?:[-*+] |\d+[.)] )?!?\[[^\]]*\]\([^)\s]*\)[.,:;]?\s*")


class Paragraph(NamedTuple):
    """Lines of prose that follow each other; items of a list are paragraphs where an empty line is between them."""

    line: int
    """Number of its first line, from 1 on."""
    lines: tuple[str, ...]

    @property
    def words(self) -> int:
        """What spaces separate."""
        return sum(len(line.split()) for line in self.lines)


def paragraphs(text: str) -> Iterator[Paragraph]:
    """The prose of a Markdown text, without its code blocks and tables.

    Indented by four spaces is code after an empty line, a heading or other code; elsewhere it goes on with a paragraph.
    """
    held: list[str] = []
    fenced, after_break = False, True
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        fence = FENCE.match(line) is not None
        is_code = fenced or fence or (after_break and INDENTED.match(line) is not None)
        is_prose = not is_code and bool(line.strip()) and TABLE_ROW.match(line) is None
        if held and (not is_prose or HEADING.match(line)):
            yield Paragraph(number - len(held), tuple(held))
            held = []
        if is_prose and HEADING.match(line):
            yield Paragraph(number, (line,))
        elif is_prose:
            held.append(line)
        after_break = not held
        fenced ^= fence


def problems(text: str) -> list[str]:
    """Paragraphs and lines of prose that are too long, each with the number of its line."""
    found = []
    for paragraph in paragraphs(text):
        if paragraph.words > MOST_WORDS:
            found.append(f"line {paragraph.line}: a paragraph of {paragraph.words} words, at most {MOST_WORDS}")
        for number, line in enumerate(paragraph.lines, start=paragraph.line):
            if len(line) > MOST_CHARACTERS and not LINK_ALONE.fullmatch(line):
                found.append(f"line {number}: {len(line)} characters, at most {MOST_CHARACTERS}")
    return found


@pytest.mark.parametrize("page", PROSE)
def test_paragraphs_and_lines_are_short(page):
    assert problems((ROOT / page).read_text()) == []


def test_every_package_has_a_page_that_is_looked_at():
    assert {f"{name}/README.md" for name in ("cluster", "dataprep", "jobs", "tests", "vr_core")} < set(PAGES)
    assert {"README.md", "tests/bench/README.md", ".github/CONTRIBUTING.md"} < set(PAGES)


LONG = "\n".join(["word " * 13] * 7)
"""91 words on short lines."""
WIDE = "a" * 60 + " " + "b" * 60
"""121 characters."""


@pytest.mark.parametrize(
    "before", ["", "# Heading\n", "text\n\n", "| a | b |\n|---|---|\n\n", "```\ncode\n```\n"], ids=repr
)
def test_a_long_paragraph_is_found(before):
    (found,) = problems(f"{before}{LONG}\n\nshort\n")
    assert found == f"line {before.count(chr(10)) + 1}: a paragraph of 91 words, at most 90"
    assert problems(before + LONG.removesuffix("word ")) == []


@pytest.mark.parametrize("before", ["- an item\n- ", "1. ", "- an item\n  ", "> ", "- an item\n    "], ids=repr)
def test_a_long_item_is_found(before):
    assert "paragraph" in problems(f"{before}{LONG}\n")[0]


@pytest.mark.parametrize("before", ["", "- ", "# ", "text\n    ", "> "], ids=repr)
def test_a_long_line_is_found(before):
    (found,) = problems(f"{before}{WIDE}\n")
    assert found.endswith(f"{len(WIDE) + len(before.splitlines()[-1] if before else '')} characters, at most 120")
    assert problems(f"{before}short\n") == []


def test_a_list_is_short_or_has_empty_lines_between_its_items():
    item = "- " + "word " * 20 + "\n"
    assert problems(item * 4) == []
    assert problems(item * 10) == ["line 1: a paragraph of 210 words, at most 90"]
    assert problems(f"{item}\n" * 10) == []


@pytest.mark.parametrize(
    "text",
    [
        f"```\n{LONG}\n{WIDE}\n```\n",
        f"text\n\n    {WIDE}\n",
        f"| {WIDE} |\n|---|\n" + "| word word word word word |\n" * 30,
        f"[{'a' * 60}](https://{'b' * 60})\n",
        f"- ![{'a' * 60}](folder/{'b' * 60}.png).\n",
    ],
    ids=["fenced", "indented", "table", "link", "picture"],
)
def test_code_tables_and_links_may_be_as_long_as_they_are(text):
    assert problems(text) == []


def test_text_around_a_link_is_a_line_like_any_other():
    line = f"see [{'a' * 60}](https://{'b' * 60})"
    assert problems(line) == [f"line 1: {len(line)} characters, at most 120"]
