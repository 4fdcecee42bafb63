"""Small files as others may leave them: whatever lies there is read, or refused in one line, and nothing waits."""

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vr_core.errors import ConfigError
from vr_core.small_files import DEPTH, DamagedFile, expanded, parse_json, read_bytes, read_json, read_text


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(pipe := tmp_path / "state.json")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path in (pipe, Path("/dev/zero"), tmp_path):
            with pytest.raises(DamagedFile, match=f"^{path}: is a (folder|pipe or a device), not a file"):
                read_bytes(path)
        with pytest.raises(OSError, match="No such device"):
            read_bytes(tmp_path / "socket")
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none")
    with pytest.raises(DamagedFile, match="null byte"):
        read_bytes(Path("a\0b"))


def test_one_byte_more_than_may_be_is_too_large(tmp_path):
    (path := tmp_path / "a").write_bytes(b"x" * 10)
    assert read_bytes(path, 10) == b"x" * 10
    with pytest.raises(DamagedFile, match="larger than"):
        read_bytes(path, 9)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (path := tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa4"}')
    assert read_text(path) == '{"a": "ä"}'
    assert read_json(path) == {"a": "ä"}


def test_other_bytes_than_text_are_replaced_in_logs_alone(tmp_path):
    (path := tmp_path / "a.log").write_bytes(b"one \xff two")
    assert read_text(path, lenient=True) == "one � two"
    with pytest.raises(DamagedFile, match=r"not UTF-8 text \(byte 4\)"):
        read_text(path)


@pytest.mark.parametrize("levels", [DEPTH, DEPTH + 1, 100_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_depth_is_limited(levels, opening):
    closing = "]" if opening == "[" else "}"
    text = f'{{"a": {opening * (levels - 1)}{"1" if opening != "[" else ""}{closing * (levels - 1)}}}'
    if levels > DEPTH:
        with pytest.raises(DamagedFile, match=f"more than {DEPTH} levels deep"):
            parse_json(text, "here")
    else:
        assert parse_json(text, "here") == json.loads(text)


@given(st.binary(max_size=200))
@example(b'{"a": 1}')
@example(b"\xff\xfe{\x00}\x00")
@example(b"9" * 5000)
def test_any_bytes_are_a_mapping_or_one_line(content):
    """As json reads them, where that gives a mapping."""
    try:
        found = parse_json(content, "here")
    except DamagedFile as error:
        found, said = None, str(error)
    if found is None:
        assert said.startswith("here: damaged (")
        assert "\n" not in said
    else:
        assert found == json.loads(content)


def test_paths_are_those_that_this_pc_can_have():
    assert expanded(Path("~/a")) == Path.home() / "a"
    assert expanded(Path("a/~b")) == Path("a/~b")
    with pytest.raises(ConfigError, match="this PC|no user"):
        expanded(Path("~nosuchuser/a"))
    with pytest.raises(ConfigError, match="NUL"):
        expanded(Path("a\0b"))
