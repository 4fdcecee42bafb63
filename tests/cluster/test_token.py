import stat
import threading

import pytest

from cluster.errors import TokenError
from cluster.trust.token import create_token, read_token, write_private


def test_a_token_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "state" / "token"
    create_token(path)
    token = read_token(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) == 64
    create_token(path)
    assert read_token(path) == token
    assert [p.name for p in path.parent.iterdir()] == ["token"]


def test_of_two_that_make_it_at_once_both_see_one_token(tmp_path):
    path = tmp_path / "token"
    seen = []

    def make():
        create_token(path)
        seen.append(read_token(path))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_token_that_others_may_read_is_refused_with_the_remedy(tmp_path, mode):
    path = tmp_path / "token"
    create_token(path)
    path.chmod(mode)
    with pytest.raises(TokenError, match=f"type: chmod 600 {path}"):
        read_token(path)


@pytest.mark.parametrize("content", [b"", b"short\n", b"two words of a sentence\n", b"\xff" * 64, b"a" * 9000])
def test_a_file_that_holds_no_token_is_refused_and_not_shown(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(TokenError, match="no cluster token") as caught:
        read_token(path)
    assert "words" not in str(caught.value)


def test_a_missing_token_file_is_named(tmp_path):
    with pytest.raises(TokenError, match="No such file"):
        read_token(tmp_path / "nowhere")


def test_a_private_file_is_replaced_whole(tmp_path):
    path = tmp_path / "record.json"
    write_private(path, "one")
    write_private(path, "two")
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        write_private(path, "three", replace=False)
    assert path.read_text() == "two"
