"""Copies are found whatever was done to them, and nothing else is."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataprep.audio.tracks import find_tracks
from dataprep.errors import DataError
from dataprep.fingerprints.fingerprint import Fingerprint, Pair, bank, candidates, compared, crossing, pairs
from dataprep.fingerprints.store import FOLDER, fingerprints
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import Follows, read_manifest
from dataprep.shards.splits import SplitByList
from dataprep.synth.songs import write_songs
from tests.dataprep.copies import RATE_HZ, WHAT, planted
from vr_core.specs.stft import StftSpec

FRAME_S = 1024 / RATE_HZ


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 songs, and a copy of each of the first seven, changed in every way there is."""
    root = tmp_path_factory.mktemp("copies")
    for _ in write_songs(root / "songs", 12, 15.0, 3):
        pass
    songs = list(find_tracks([root / "songs"]).tracks)
    copies = [planted(root, song, what) for song, what in zip(songs, WHAT, strict=False)]
    rule = SplitByList((("test", "copy-cut"), ("train", "*")), "here")
    prepare(songs + copies, root / "data", PrepareSettings(workers=1), split=rule)
    return root / "data"


@pytest.fixture(scope="module")
def found(folder: Path) -> list[Pair]:
    return pairs(list(fingerprints(Dataset.open(folder))), FRAME_S)


def test_every_planted_copy_is_found_and_nothing_else(found):
    wanted = {(f"copy-{what.strip('.')}", f"song{i:03d}") for i, what in enumerate(WHAT, 1)}
    assert {(pair.song, pair.other) for pair in found} == wanted
    for pair in found:
        shift_s = -(3 * RATE_HZ + 517) / RATE_HZ if pair.song == "copy-cut" else 0.0
        assert pair.offset_s == pytest.approx(shift_s, abs=FRAME_S), pair
        assert pair.overlap_s > (7 if pair.song == "copy-cut" else 11), pair
        assert pair.wrong_bits < 0.12, pair
    (instrumental,) = (pair for pair in found if pair.song == "copy-instrumental")
    assert (instrumental.role, instrumental.other_role) == ("mixture", "instrumental")


def test_copies_on_both_sides_of_a_split_are_told(folder, found):
    manifest = read_manifest(folder)
    assert crossing(found, manifest) == []
    songs = tuple(s.model_copy(update={"split": "train"}) if s.id == "song003" else s for s in manifest.songs)
    assert [pair.song for pair in crossing(found, manifest.model_copy(update={"songs": songs}))] == ["copy-cut"]


def test_preparation_puts_a_recording_and_its_copies_into_one_split(folder):
    """The list of splits asks for a copy of song003 in the test split: both are there, and nothing else."""
    songs = {song.id: song for song in read_manifest(folder).songs}
    assert {id for id, song in songs.items() if song.split == "test"} == {"copy-cut", "song003"}
    assert songs["song003"].follows == Follows(song="copy-cut", shares="recording")
    assert songs["song003"].remarks == ("same recording as copy-cut; it follows its split",)
    assert songs["song010"].remarks == ()


def test_what_was_heard_while_preparing_is_what_the_shards_hold(folder, tmp_path):
    kept = list(fingerprints(Dataset.open(folder)))
    shutil.copytree(folder, tmp_path / "data", ignore=shutil.ignore_patterns(FOLDER))
    made = list(fingerprints(Dataset.open(tmp_path / "data")))
    assert [(p.song, p.role) for p in kept] == [(p.song, p.role) for p in made]
    for one, other in zip(kept, made, strict=True):
        both = one.audible & other.audible
        assert (one.audible == other.audible).mean() > 0.99, one.song
        assert np.unpackbits((one.words ^ other.words)[both].view(np.uint8)).mean() < 0.03, one.song


def test_damaged_fingerprints_are_made_again(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    (kept,) = (tmp_path / "data" / FOLDER).glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:-2000])
    assert len(list(fingerprints(Dataset.open(tmp_path / "data")))) == len(list(fingerprints(Dataset.open(folder))))


def prints_of(words: list[tuple[str, list[int]]]) -> list[Fingerprint]:
    return [
        Fingerprint(song, "mixture", np.array(bits, np.uint32), np.arange(len(bits)) % 3 != 2) for song, bits in words
    ]


@pytest.mark.parametrize("at_once", [2**24, 4])
@given(words=st.lists(st.tuples(st.sampled_from("abcd"), st.lists(st.integers(0, 5), max_size=12)), max_size=6))
def test_candidates_are_those_that_a_search_of_all_pairs_finds(at_once, words):
    prints = prints_of(words)
    wanted: Counter[tuple[int, int, int]] = Counter()
    for i, one in enumerate(prints):
        for j, other in enumerate(prints):
            if i < j and one.song != other.song:
                for s, t in np.ndindex(len(one.words), len(other.words)):
                    if one.audible[s] and other.audible[t] and one.words[s] == other.words[t]:
                        wanted[i, j, s - t] += 1
    got = list(candidates(prints, at_once))
    assert len(got) == len(set(got))
    for i, j in {(i, j) for i, j, _ in wanted}:
        mine = sorted((wanted[key] for key in wanted if key[:2] == (i, j)), reverse=True)[:3]
        assert [wanted[key] for key in got if key[:2] == (i, j)] == mine
    assert {key[:2] for key in got} == {key[:2] for key in wanted}


@given(st.integers(0, 2**32 - 1), st.integers(-30, 30))
def test_bits_are_compared_where_both_are_heard(seed, offset):
    rng = np.random.default_rng(seed)
    one, other = (
        Fingerprint(name, "mixture", rng.integers(0, 2**32, size, np.uint32), rng.random(size) < 0.7)
        for name, size in (("a", 40), ("b", 33))
    )
    wrong = heard = 0
    for at in range(40):
        if 0 <= at - offset < 33 and one.audible[at] and other.audible[at - offset]:
            wrong += int(one.words[at] ^ other.words[at - offset]).bit_count()
            heard += 32
    pair = compared(one, other, offset, 0.5)
    assert pair.overlap_s == heard / 32 * 0.5
    assert pair.wrong_bits == pytest.approx(wrong / heard if heard else 1.0)


@pytest.mark.parametrize(
    ("n_fft", "rate"), [(4096, 44_100), (2048, 44_100), (1024, 44_100), (256, 44_100), (256, 8000)]
)
def test_every_band_has_bins_of_its_own(n_fft, rate):
    bands = bank(StftSpec(sample_rate_hz=rate, n_fft=n_fft, hop=n_fft // 2))
    assert bands.shape == (33, n_fft // 2)
    assert (bands.sum(axis=1) >= 1).all()
    assert (bands.sum(axis=0) <= 1).all()


def test_spectra_too_coarse_for_it_are_refused():
    with pytest.raises(DataError, match="n_fft 64: too few bins"):
        bank(StftSpec(n_fft=64, hop=32))


def test_no_songs_and_silent_songs_have_no_copies():
    assert pairs([], FRAME_S) == []
    silent = [Fingerprint(name, "vocals", np.zeros(900, np.uint32), np.zeros(900, bool)) for name in "ab"]
    assert pairs(silent, FRAME_S) == []
