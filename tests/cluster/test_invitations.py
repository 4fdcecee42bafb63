import hashlib
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.joining.invitations import (
    VALID_S,
    Invitation,
    Refusal,
    decide,
    forget_all,
    invitations_file,
    read_invitations,
    used,
    withdraw,
    write_invitations,
)
from cluster.joining.join_code import JoinCode, format_code
from cluster.node.processes import Now, now
from cluster.versions import Versions, difference, own_versions

HEAD = Versions(vr="0.1.0", ray="2.60.0", python="3.11", commit="a" * 40)
SECRET = b"0123456789"
BOOT = "b00t"


def invitation(secret=SECRET, until_s=1000.0, **changes):
    digest = hashlib.sha256(secret).hexdigest()
    return Invitation(secret_sha256=digest, boot_id=BOOT, until_s=until_s, versions=HEAD).model_copy(update=changes)


def test_a_good_code_is_admitted_until_its_time_is_over():
    known = [invitation(b"another..."), invitation()]
    assert decide(known, SECRET, HEAD, Now(BOOT, 999.9)) == known[1]
    over = decide(known, SECRET, HEAD, Now(BOOT, 1000.0))
    assert isinstance(over, Refusal)
    assert "the code is over (codes are good for 30 minutes)" in over.line
    assert VALID_S == 1800


def test_a_code_is_good_once_and_the_second_pc_is_told_who_had_it():
    after = used([invitation(), invitation(b"another...")], invitation(), "192.168.1.11")
    refused = decide(after, SECRET, HEAD, Now(BOOT, 0.0))
    assert isinstance(refused, Refusal)
    assert "used already, by 192.168.1.11" in refused.line
    assert "vr cluster rotate" in refused.line
    assert not isinstance(decide(after, b"another...", HEAD, Now(BOOT, 0.0)), Refusal)


def test_a_code_of_before_the_last_boot_is_refused():
    refused = decide([invitation()], SECRET, HEAD, Now("other", 0.0))
    assert isinstance(refused, Refusal)
    assert "started again" in refused.line


@given(st.binary(max_size=12).filter(lambda secret: secret != SECRET))
def test_any_other_secret_is_a_guess(secret):
    refused = decide([invitation()], secret, HEAD, Now(BOOT, 0.0))
    assert isinstance(refused, Refusal)
    assert refused.is_guess


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"python": "3.12"}, "this PC has Python 3.12, the head 3.11; type on it: uv sync --python 3.11"),
        (
            {"commit": "b" * 40},
            "this PC has commit bbbbbbbbbbbb of this project, the head aaaaaaaaaaaa; type on it: git",
        ),
        ({"vr": "0.2.0", "commit": None}, "this PC has vr 0.2.0, the head 0.1.0; type on it: git pull && uv sync"),
        ({"ray": "2.61.0"}, "this PC has Ray 2.61.0, the head 2.60.0; type on it: uv sync"),
    ],
)
def test_other_versions_are_refused_with_what_to_type_and_the_code_stays_good(changes, said):
    ours = HEAD.model_copy(update=changes)
    assert said in difference(HEAD, ours)
    refused = decide([invitation()], SECRET, ours, Now(BOOT, 0.0))
    assert isinstance(refused, Refusal)
    assert said in refused.line
    assert not refused.is_guess
    assert refused.line.endswith("the code stays good")


def test_a_pc_without_a_checkout_is_not_asked_for_its_commit():
    assert difference(HEAD, HEAD.model_copy(update={"commit": None})) is None
    assert difference(HEAD.model_copy(update={"commit": None}), HEAD) is None
    assert difference(own_versions("a" * 40), own_versions("a" * 40)) is None


def test_invitations_are_kept_as_hashes_for_their_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert read_invitations() == ()
    write_invitations((invitation(),))
    assert read_invitations() == (invitation(),)
    assert stat.S_IMODE(invitations_file().stat().st_mode) == 0o600
    text = invitations_file().read_text()
    assert SECRET.decode() not in text
    assert SECRET.hex() not in text
    for damage in ("", "{", "[]", "3", '{"invitations": [{}]}'):
        invitations_file().write_text(damage)
        assert read_invitations() == ()
    forget_all()
    assert not invitations_file().exists()


def test_the_clock_runs_on_and_no_setting_of_the_date_moves_it():
    before, after = now(), now()
    assert before.boot_id == after.boot_id
    assert before.since_boot_s <= after.since_boot_s


def test_a_code_that_is_withdrawn_is_unknown_and_one_that_was_used_is_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    secrets = (SECRET, b"another...", b"third.....")
    write_invitations((invitation(), invitation(secrets[1], used_by="192.168.1.11"), invitation(secrets[2])))
    withdraw(format_code(JoinCode("192.168.1.10", 6385, b"f" * 16, secret)) for secret in secrets[:2])
    refusals = [decide(read_invitations(), secret, HEAD, Now(BOOT, 0.0)) for secret in secrets]
    assert "does not know the code" in refusals[0].line
    assert "used already, by 192.168.1.11" in refusals[1].line
    assert not isinstance(refusals[2], Refusal)
