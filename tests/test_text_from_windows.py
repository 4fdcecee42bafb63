"""Every text file that a user writes, as editors on Windows save it: a byte order mark, CRLF, UTF-16."""

import codecs
from pathlib import Path

import pytest

from cluster.inventory import Inventory
from cluster.timings import Timings
from cluster.trust.token import read_token
from dataprep.errors import DataError
from dataprep.shards.roots import Roots
from dataprep.shards.splits import assign, parse_split
from jobs.recipes.shipped import read_recipe
from vr_core.config import load, plain
from vr_core.small_files import DamagedFile, read_json, read_text

SAVED = {
    "as on Linux": lambda text: text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "mark and CRLF": lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
    "UTF-16": lambda text: codecs.BOM_UTF16_LE + text.replace("\n", "\r\n").encode("utf-16-le"),
    "UTF-16 BE": lambda text: codecs.BOM_UTF16_BE + text.replace("\n", "\r\n").encode("utf-16-be"),
    "UTF-32": lambda text: codecs.BOM_UTF32_LE + text.replace("\n", "\r\n").encode("utf-32-le"),
}
SPLIT = "test 音楽-*  # a comment\nvalid größe\n\ntrain *\n"
INVENTORY = """# größe
nodes:
  - {name: attic, address: 192.168.1.10, role: head}
  - {name: study, address: 192.168.1.11}
"""


def a_split(file: Path) -> object:
    return assign(["音楽-1", "größe", "song"], parse_split(str(file)))


def an_inventory(file: Path) -> object:
    return [(node.name, node.address) for node in load(Inventory, file).nodes]


def a_recipe(file: Path) -> object:
    recipe = read_recipe(str(file))
    return recipe.steps, recipe.data


def some_timings(file: Path) -> object:
    return plain(load(Timings, file))["raylet_gone_s"]


def some_roots(file: Path) -> object:
    return Roots.of(file.parent, node="attic").here


def a_token(file: Path) -> object:
    file.chmod(0o600)
    return read_token(file)


FILES = {
    "split": ("split.txt", SPLIT, a_split, {"音楽-1": "test", "größe": "valid", "song": "train"}),
    "inventory": ("home.yaml", INVENTORY, an_inventory, [("attic", "192.168.1.10"), ("study", "192.168.1.11")]),
    "recipe": (
        "mine.yaml", "# größe\nname: mine\nsteps: 7\ndata: /mnt/音楽 #2\n", a_recipe, (7, Path("/mnt/音楽")),
    ),
    "timings": ("waits.yaml", "raylet_gone_s: 9.5\n", some_timings, 9.5),
    "roots": (
        "roots.yaml", "nodes:\n  attic: [/mnt/größe]\neverywhere: [/mnt/a]\n", some_roots,
        (Path("/mnt/a"), Path("/mnt/größe")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_read_however_it_was_saved(kind, saved, tmp_path):
    name, text, read, value = FILES[kind]
    (tmp_path / name).write_bytes(SAVED[saved](text))
    assert read(tmp_path / name) == value


@pytest.mark.parametrize("saved", ["as on Linux", "CRLF", "mark", "mark and CRLF"])
def test_a_token_that_went_over_windows_is_read(saved, tmp_path):
    tmp_path.chmod(0o700)
    (tmp_path / "token").write_bytes(SAVED[saved]("0123456789abcdef\n"))
    assert a_token(tmp_path / "token") == "0123456789abcdef"


@pytest.mark.parametrize("saved", ["UTF-16", "UTF-16 BE", "UTF-32"])
def test_json_may_be_saved_so_too(saved, tmp_path):
    (tmp_path / "a.json").write_bytes(SAVED[saved]('{"größe": "音楽"}\n'))
    assert read_json(tmp_path / "a.json") == {"größe": "音楽"}


def test_a_page_of_letters_that_is_not_said_is_refused_not_guessed(tmp_path):
    (tmp_path / "split.txt").write_bytes("valid größe\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"split\.txt: cannot be read \(no UTF-8 text\)"):
        parse_split(str(tmp_path / "split.txt"))
    (tmp_path / "cut").write_bytes(codecs.BOM_UTF16_LE + b"a\0b")
    with pytest.raises(DamagedFile, match="save it as UTF-8"):
        read_text(tmp_path / "cut")
