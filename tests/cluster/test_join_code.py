import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ClusterError
from cluster.joining.join_code import JoinCode, format_code, looks_like_code, parse_code

CODES = st.builds(
    JoinCode,
    st.ip_addresses(v=4).map(str),
    st.integers(0, 65535),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=10, max_size=10),
)
CODE = JoinCode("192.168.1.10", 6385, bytes(range(16)), bytes(range(100, 110)))
TEXT = format_code(CODE)


@given(CODES)
def test_a_code_says_what_it_was_made_of(code):
    text = format_code(code)
    assert parse_code(text) == code
    assert [len(group) for group in text.split("-")] == [8] * 8
    assert set(text) <= set(string.digits + string.ascii_uppercase + "-") - set("ILOU")


@given(CODES)
def test_a_code_may_be_typed_as_people_do(code):
    text = format_code(code)
    assert parse_code(f" {text.lower()} ") == code
    assert parse_code(text.replace("-", " ")) == code
    assert parse_code(text.replace("-", "").replace("0", "o").replace("1", "l").replace("V", "u")) == code


@given(CODES, st.data())
def test_one_wrong_letter_is_called_a_typo_and_nearly_always_its_group_is_named(code, data):
    text = format_code(code)
    at = data.draw(st.sampled_from([i for i, c in enumerate(text) if c != "-"]))
    other = data.draw(st.sampled_from(sorted(set("0123456789ABCDEFGHJKMNPQRSTVWXYZ") - {text[at]})))
    with pytest.raises(ClusterError, match="typo") as caught:
        parse_code(text[:at] + other + text[at + 1 :])
    assert str(caught.value).startswith(
        (f"the join code has a typo in group {at // 9 + 1} of 8;", "the join code has a typo, or")
    )


def test_the_wrong_groups_are_named_and_the_code_is_not_repeated():
    groups = TEXT.split("-")
    swapped = "-".join([groups[1], groups[0], *groups[2:]])
    with pytest.raises(ClusterError, match="typo in groups 1, 2 of 8") as caught:
        parse_code(swapped)
    assert not any(group in str(caught.value) for group in groups)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT[:-1], "63 letters and digits instead of 64"),
        (TEXT + "-AAAAAAAA", "72 letters and digits instead of 64"),
        (TEXT[:-1] + "%", "'%' is in no code"),
        (TEXT[:-1] + "Ä", "'Ä' is in no code"),
        ("", "0 letters and digits"),
    ],
)
def test_what_is_no_code_is_called_a_typo(text, said):
    with pytest.raises(ClusterError, match=f"typo: {said}"):
        parse_code(text)


@given(st.text(max_size=100))
def test_any_text_is_a_code_or_one_line(text):
    with pytest.raises(ClusterError):
        parse_code(text)


def test_codes_and_addresses_are_told_apart():
    assert looks_like_code(TEXT)
    assert looks_like_code(TEXT[:-20])
    assert looks_like_code(TEXT.replace("-", " ").lower())
    for address in ("192.168.1.10", "192.168.1.10:6379", "attic", "attic.home.example.org", "fe80::1ff:fe23:4567:890a"):
        assert not looks_like_code(address)
