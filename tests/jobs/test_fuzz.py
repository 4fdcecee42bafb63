"""Recipes, inventories, manifests, splits and roots as nobody should write them, through the commands: one line."""

import json
import random
import resource
from pathlib import Path

import pytest

from dataprep.preparing.prepare import prepare
from jobs.recipe import Recipe
from tests.command_line import vr
from tests.dataprep.data import SETTINGS, labelled
from vr_core.config import to_yaml
from vr_core.small_files import read_json

ROOT = Path(__file__).parents[2]
PIECES = [
    "", "~", "null", "[]", "{}", "- a", "a: b", "*x", "&x", "!!python/object:os.system x", "!!binary x", "'", '"', "\t",
    "\x00", "\x1b[2J", "\ufeff", "\u202e", "é" * 300, "9" * 400, "-1", "1e999", ".nan", "0x" + "f" * 400, "true",
    "../..", "/dev/zero", "~nosuchuser/x", "a" * 5000, "{" * 60, "[" * 3000, "?", ": ", "%YAML 9", "---\n---", "<<: *x",
    "\n" * 50,
]  # fmt: skip


def spoilt(text: str, draw: random.Random) -> bytes:
    """`text` with some lines dropped, doubled, moved, and pieces put in anywhere."""
    lines = text.split("\n")
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(lines))
        match draw.randrange(6):
            case 0:
                lines[at] = draw.choice(PIECES)
            case 1:
                key, colon, _ = lines[at].partition(":")
                lines[at] = f"{key}{colon} {draw.choice(PIECES)}"
            case 2:
                lines.insert(at, lines[draw.randrange(len(lines))])
            case 3:
                del lines[at]
                lines = lines or [""]
            case 4:
                cut = draw.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:cut] + draw.choice(PIECES) + lines[at][cut:]
            case 5:
                lines[at] = " " * draw.randint(0, 9) + lines[at].strip()
    content = "\n".join(lines).encode("utf-8", "surrogateescape")
    if draw.random() < 0.2:
        at = draw.randrange(len(content) + 1)
        content = content[:at] + bytes([draw.randrange(256)]) + content[at:]
    return content


ROOTS = "everywhere: [/mnt/a]\nnodes:\n  attic: [/mnt/b]\n"


@pytest.fixture
def kinds(tmp_path, monkeypatch):
    """Kind → what is spoilt, where it goes, and the commands that read it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    prepare([labelled(tmp_path / "music", "a", 2_000, 1)], data, SETTINGS)
    example = (ROOT / "cluster" / "example.yaml").read_text()
    recipe = to_yaml(Recipe(name="demo", steps=9, data=data))
    manifest = json.dumps(read_json(data / "manifest.json"), indent=1)  # without its digest: the rest must hold too
    planned, music = ["plan", "songs-pretrain", "-i", "i.yaml"], tmp_path / "music"
    splitting = ["data", "prepare", music, "--out", data, "--split", "s.split", "--json"]
    return {
        "recipe": (recipe, tmp_path / "r.yaml", [["train", "r.yaml", "--dry-run"], ["tune", "r.yaml", "--dry-run"]]),
        "inventory": (example, tmp_path / "i.yaml", [["cluster", "firewall", "i.yaml"], planned]),
        "manifest": (manifest, data / "manifest.json", [["data", "inspect", data, "--json"], ["data", "dedupe", data]]),
        "split": ("train a\nvalid b\ntest *\n", tmp_path / "s.split", [splitting]),
        "roots": (ROOTS, data / "roots.yaml", [["data", "inspect", data]]),
    }


def fuzzed(kinds, kind: str, count: int) -> list[str]:
    text, file, commands = kinds[kind]
    draw, wrong = random.Random(kind), []
    for number in range(count):
        content = spoilt(text, draw)
        file.write_bytes(content)
        for words in commands:
            try:
                said = vr(*words, code=None)
            except Exception as error:
                wrong.append(f"{number} {words[0]}: {type(error).__name__}: {error}"[:300])
                continue
            if said.code not in (0, 1, 2) or "Traceback" in said.stderr:
                wrong.append(f"{number} {words[0]}: code {said.code}: {said.stderr[-200:]}")
            if "\x1b" in said.stderr + said.stdout or "\u202e" in said.stderr:
                wrong.append(f"{number} {words[0]}: printed raw")
    return wrong


@pytest.mark.parametrize(
    ("kind", "count"),
    [(kind, 40) for kind in ("recipe", "inventory", "manifest", "split", "roots")]
    + [pytest.param(kind, 200, marks=pytest.mark.long("vr_core", "dataprep/shards"))
       for kind in ("recipe", "inventory", "manifest", "split", "roots")],
)  # fmt: skip
def test_nothing_that_is_written_is_a_traceback(kinds, kind, count):
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong = fuzzed(kinds, kind, count)
    assert wrong == [], json.dumps(wrong[:5], indent=1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 1_000_000
