from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataprep.errors import DataError
from dataprep.preparing.prepare import prepare
from dataprep.shards.manifest import read_manifest
from dataprep.shards.splits import SplitByFraction, assign, beside, parse_fractions, parse_list, parse_split
from tests.dataprep.data import SETTINGS, labelled

SONGS = [f"song{k:03d}" for k in range(1, 37)]


def test_fractions_are_parsed():
    assert parse_fractions("valid=0.1, test=0.2,seed=7") == SplitByFraction(0.1, 0.2, 7)
    assert parse_fractions("test=0.5") == SplitByFraction(0.0, 0.5, 0)


@pytest.mark.parametrize(
    "text", ["valid=1", "valid=-0.1", "valid=nan", "train=0.5", "valid", "valid=a", "seed=1.5", "valid=.1,valid=.2"]
)
def test_fractions_that_do_not_fit_are_refused(text):
    with pytest.raises(DataError, match=r"does not fit; expected valid=0\.1"):
        parse_fractions(text)


def test_something_is_left_for_training():
    with pytest.raises(DataError, match="leaves too little"):
        parse_fractions("valid=0.5,test=0.5")
    for count in range(1, 8):
        splits = assign(SONGS[:count], SplitByFraction(0.4, 0.5, 3))
        assert "train" in splits.values()


@given(st.integers(3, 60), st.floats(0.01, 0.4), st.floats(0.01, 0.4), st.integers(0, 1000))
def test_every_split_asked_for_is_there_in_about_its_share(count, valid, test, seed):
    splits = assign([f"s{k}" for k in range(count)], SplitByFraction(valid, test, seed))
    for name, share in (("valid", valid), ("test", test)):
        found = list(splits.values()).count(name)
        assert found >= 1
        assert abs(found - share * count) <= 1


def test_order_does_not_matter_and_the_seed_does():
    rule = SplitByFraction(0.2, 0.2, 7)
    assert assign(SONGS, rule) == assign(SONGS[::-1], rule)
    assert list(assign(SONGS[::-1], rule)) == SONGS[::-1]
    assert assign(SONGS, rule) != assign(SONGS, SplitByFraction(0.2, 0.2, 8))


@given(st.integers(0, 1000), st.integers(5, 40))
def test_a_song_more_moves_two_at_most(seed, count):
    rule = SplitByFraction(0.2, 0.2, seed)
    before = assign([f"s{k}" for k in range(count)], rule)
    after = assign([f"s{k}" for k in range(count + 1)], rule)
    assert sum(after[song] != split for song, split in before.items()) <= 2


def test_the_first_line_that_matches_decides():
    rule = parse_list("# held out\ntest song03[1-6]\n\nvalid song010  # chosen\ntrain *\n", "list")
    splits = assign(SONGS, rule)
    assert [s for s in SONGS if splits[s] == "test"] == SONGS[30:]
    assert [s for s in SONGS if splits[s] == "valid"] == ["song010"]
    assert list(splits.values()).count("train") == 29


def test_songs_without_a_line_are_named():
    with pytest.raises(DataError, match=r"list: no line for song002, song003.*and 30 more; add lines, or `train \*`"):
        assign(SONGS, parse_list("train song001", "list"))


@pytest.mark.parametrize("line", ["train", "dev song1", "song1"])
def test_lines_that_do_not_fit_are_named(line):
    with pytest.raises(DataError, match=r"list:2: expected `train\|valid\|test"):
        parse_list(f"train a\n{line}\n", "list")


def test_an_empty_list_is_refused():
    with pytest.raises(DataError, match="no rule"):
        parse_list("# nothing\n", "list")


def test_the_option_takes_either(tmp_path):
    (tmp_path / "a=b.split").write_text("train *\n")
    assert assign(["x"], parse_split(str(tmp_path / "a=b.split"))) == {"x": "train"}
    assert parse_split("test=0.5") == SplitByFraction(test=0.5)


def test_a_data_set_can_be_split_as_another(tmp_path):
    tracks = [labelled(tmp_path / "music", name, 5000, i) for i, name in enumerate(["a-1", "b", "c", "d"])]
    prepare(tracks, tmp_path / "one", SETTINGS, split=parse_split("test=0.3,valid=0.3,seed=5"))
    again = prepare(tracks, tmp_path / "two", SETTINGS, split=parse_split(str(tmp_path / "one")))
    wanted = {song.id: song.split for song in read_manifest(tmp_path / "one").songs}
    assert {song.id: song.split for song in again.manifest.songs} == wanted
    assert set(wanted.values()) == {"train", "valid", "test"}


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        parse_split(str(tmp_path / "gone.split"))


@given(st.integers(0, 50), st.lists(st.integers(0, 12), min_size=3, max_size=40))
def test_kin_come_into_one_split(seed, groups):
    ids = [f"song{k}" for k in range(len(groups))]
    rule = SplitByFraction(0.2, 0.2, seed, kin={id: f"kin{group}" for id, group in zip(ids, groups, strict=True)})
    splits = assign(ids, rule)
    assert set(splits) == set(ids)
    for group in set(groups):
        assert len({splits[id] for id, own in zip(ids, groups, strict=True) if own == group}) == 1
    if len(set(groups)) >= 3:
        assert set(splits.values()) == {"train", "valid", "test"}


def test_kin_of_a_song_that_is_there_follow_it():
    rule = SplitByFraction(0.3, 0.3, kin={"a": "one", "b": "one"})
    for split in ("train", "valid", "test"):
        assert beside(["a", "b", "c", "d"], rule, {"a": split})["b"] == split


def test_a_published_split_is_kept_and_gives_what_it_has_not():
    ids = [f"song{k:02d}" for k in range(40)]
    published = {id: "test" if k < 10 else "train" for k, id in enumerate(ids[:30])}
    splits = assign(ids, SplitByFraction(0.1, 0.1, 3, published=published))
    assert [id for id in ids[:30] if splits[id] == "test"] == ids[:10]
    assert sum(splits[id] == "valid" for id in ids[:30]) == 2, "a tenth of the 20 songs for training"
    assert sum(splits[id] == "test" for id in ids[30:]) == 1, "songs of no published split are drawn as ever"
    whole = {**published, ids[29]: "valid"}
    assert {
        id: split for id, split in assign(ids, SplitByFraction(0.1, 0.1, published=whole)).items() if id in whole
    } == whole


def test_fractions_are_drawn_as_they_always_were():
    splits = assign(SONGS, SplitByFraction(0.1, 0.1, kin={id: id for id in SONGS}))
    drawn = [song.removeprefix("song0") for song, split in splits.items() if split != "train"]
    assert drawn == ["09", "11", "12", "22", "24", "28", "30", "35"]


@given(labelled=st.integers(3, 12), others=st.integers(0, 60), seed=st.integers(0, 50))
def test_music_without_labels_takes_no_validation_from_songs_with_stems(labelled, others, seed):
    """The defect: three songs with stems beside much other music, and none of them was for validation."""
    known = [f"stems {i}" for i in range(labelled)]
    rest = [f"song {i}" for i in range(others)]
    rule = SplitByFraction(0.1, 0.1, seed)
    splits = assign([*known, *rest], replace(rule, labelled=frozenset(known)))
    assert {splits[song] for song in known} == {"train", "valid", "test"}
    assert {song: splits[song] for song in known} == assign(known, rule)
    assert {song: splits[song] for song in rest} == assign(rest, rule)
