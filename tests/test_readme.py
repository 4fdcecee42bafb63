"""What the READMEs and guides tell a reader to type exists."""

import pytest

from tests.pages import PAGES, ROOT
from tests.shown_commands import check, shown_commands


@pytest.mark.parametrize("page", PAGES)
def test_every_command_shown_can_be_typed(page):
    for line in shown_commands((ROOT / page).read_text()):
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
