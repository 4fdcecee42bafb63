import itertools

import pytest

from vr_core.audio.stems import GivenStems, given_stems


@pytest.mark.parametrize(
    ("answered", "masked", "rest", "usual"),
    [
        (("instrumental",), ("instrumental",), "vocals", ("instrumental", "vocals")),
        (("vocals",), ("instrumental",), "vocals", ("instrumental", "vocals")),
        (("vocals", "instrumental"), ("instrumental",), "vocals", ("instrumental", "vocals")),
        (("drums", "bass", "other", "vocals"), ("instrumental", "drums", "bass", "other"), "vocals",
         ("instrumental", "vocals")),
        (("drums",), ("drums",), "rest", ("drums", "rest")),
        (("drums", "bass"), ("drums", "bass"), "rest", ("drums", "bass", "rest")),
        (("dry", "rest"), ("dry", "rest"), "rest_of_mixture", ("dry", "rest", "rest_of_mixture")),
    ],
)  # fmt: skip
def test_what_a_models_answer_gives(
    answered: tuple[str, ...], masked: tuple[str, ...], rest: str, usual: tuple[str, ...]
) -> None:
    given = given_stems(answered)
    halves = "instrumental" in masked
    assert given == GivenStems(masked, rest, ("instrumental",) if halves else answered)
    assert given.usual == usual
    assert given.keeper == ("instrumental" if halves else rest)
    assert set(answered) <= set(given.names)


STEMS = ("vocals", "drums", "bass", "other", "guitar", "piano", "instrumental", "rest")


def test_whatever_is_wanted_is_needed_and_what_it_is_made_of_too() -> None:
    for answered in itertools.chain.from_iterable(itertools.permutations(STEMS, n) for n in (1, 2, 3)):
        given = given_stems(answered)
        assert len(set(given.names)) == len(given.names)
        for wanted in itertools.chain.from_iterable(itertools.combinations(given.names, n) for n in (1, 2)):
            needed = given.needed(wanted)
            assert set(wanted) <= set(needed) <= set(given.names)
            if given.rest in needed or given.keeper in needed:
                assert {*given.rest_of, given.rest} <= set(needed)
            else:
                assert set(needed) == set(wanted)
