import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataprep.batches.order import CatalogueRow, Item, Order, cut
from dataprep.errors import ManifestError
from vr_core.specs.objectives import MaskedFramesSpec, SeparateSpec
from vr_core.specs.slots import Effects

BOTH = ("instrumental", "vocals", "mixture")
SONGS = (
    CatalogueRow("a", BOTH, 40),
    CatalogueRow("b", BOTH, 9),  # shorter than the crop
    CatalogueRow("c", BOTH, 100),
    CatalogueRow("i", ("instrumental",), 33),
    CatalogueRow("m", ("mixture",), 64),
    CatalogueRow("v", ("vocals",), 51),
)
FRAMES = {song.id: song.frames for song in SONGS}
CROP = 16
SEPARATE = SeparateSpec(remix=0.8, gain_db=6.0, swap_channels=0.5, silent_vocals=0.1)


def order(objective=SEPARATE, seed: int = 7, songs=SONGS) -> Order:
    return Order(songs, objective, seed, CROP)


def test_items_per_epoch_counts_slots_of_the_anchor():
    assert order().items_per_epoch == 40 // 16 + 1 + 100 // 16 + 33 // 16
    assert order(MaskedFramesSpec()).items_per_epoch == 2 + 1 + 6 + 64 // 16


@pytest.mark.parametrize("objective", [SEPARATE, MaskedFramesSpec()])
def test_an_epoch_visits_every_slot_once_in_an_order_of_its_own(objective):
    sequence = order(objective)
    n = sequence.items_per_epoch
    epochs = [[item.reads[0].song for item in sequence.items(e * n, n)] for e in range(3)]
    expected = Counter({s.id: max(1, s.frames // CROP) for s in SONGS if epochs[0] and s.id in set(epochs[0])})
    assert all(Counter(epoch) == expected for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [item.epoch for item in sequence.items(0, 2 * n)] == [0] * n + [1] * n
    assert [item.index for item in sequence.items(3, 5)] == [3, 4, 5, 6, 7]


@given(st.data())
def test_the_same_items_for_any_ranks_and_any_shares(data):
    items = data.draw(st.integers(1, 24))
    world = data.draw(st.integers(1, min(5, items)))
    borders = sorted(data.draw(st.lists(st.integers(0, items), min_size=world - 1, max_size=world - 1)))
    shares = [b - a for a, b in pairwise([0, *borders, items])]
    step = data.draw(st.integers(0, 10**6))
    seed = data.draw(st.integers(0, 2**31 - 1))
    whole = order(seed=seed).items(step * items, items)
    # Every rank makes its own order, as its own process would, from songs in any sequence.
    shuffled = data.draw(st.permutations(SONGS))
    ranks = [
        order(seed=seed, songs=shuffled).items(first, end - first) for first, end in cut(step * items, shares)
    ]  # fmt: skip
    assert tuple(item for rank in ranks for item in rank) == whole


def test_ranges_of_a_cut():
    assert cut(100, [3, 0, 5]) == [(100, 103), (103, 103), (103, 108)]


def test_seeds_differ():
    assert order(seed=1).items(0, 20) != order(seed=2).items(0, 20)


@pytest.mark.parametrize("objective", [SEPARATE, MaskedFramesSpec()])
def test_reads_lie_inside_their_songs_and_reach_every_start(objective):
    starts: dict[tuple[str, str], set[int]] = {}
    for item in order(objective).items(0, 6000):
        for read in item.reads:
            assert read.frames == min(CROP, FRAMES[read.song])
            assert 0 <= read.start_frame <= FRAMES[read.song] - read.frames
            starts.setdefault((read.song, read.role), set()).add(read.start_frame)
    assert all(len(found) == max(1, FRAMES[song] - CROP + 1) for (song, _), found in starts.items())


def shares(items: tuple[Item, ...], test) -> float:
    return sum(map(test, items)) / len(items)


def test_augmentation_has_the_shares_of_the_recipe():
    items = order().items(0, 8000)
    near = lambda value: pytest.approx(value, abs=0.02)  # noqa: E731
    assert shares(items, lambda i: len(i.reads) == 1) == near(0.1)
    voiced = tuple(item for item in items if len(item.reads) == 2)
    assert all([read.role for read in item.reads] == ["instrumental", "vocals"] for item in voiced)
    assert shares(voiced, lambda i: i.reads[0].swap) == near(0.5)
    assert shares(voiced, lambda i: i.reads[1].swap) == near(0.5)
    assert shares(voiced, lambda i: i.reads[0].swap and i.reads[1].swap) == near(0.25)
    remixed = tuple(item for item in voiced if item.reads[1].gain != 1.0)
    own = tuple(item for item in voiced if item.reads[1].gain == 1.0)
    assert shares(tuple(i for i in voiced if i.reads[0].song != "i"), lambda i: i.reads[1].gain != 1.0) == near(0.8)
    assert all(i.reads[0].song == i.reads[1].song and i.reads[0].start_frame == i.reads[1].start_frame for i in own)
    assert not any(item.reads[0].song == "i" for item in own)  # it has no vocals of its own
    decibels = [20 * math.log10(item.reads[1].gain) for item in remixed]
    assert -6 <= min(decibels) < -5.9
    assert 5.9 < max(decibels) <= 6
    assert sum(decibels) / len(decibels) == pytest.approx(0, abs=0.2)
    by_song = Counter(item.reads[1].song for item in remixed)
    for song, frames in FRAMES.items():
        if song in ("a", "b", "c", "v"):
            assert by_song[song] / len(remixed) == near(frames / (40 + 9 + 100 + 51))


EFFECTS = {"invert": 0.3, "lose_channel": 0.6, "tilt_db": 2.0, "stem_gain_db": 4.0}


def test_effects_have_the_shares_of_the_recipe_for_each_stem_apart():
    near = lambda value: pytest.approx(value, abs=0.025)  # noqa: E731
    altered = SEPARATE.model_copy(update=EFFECTS)
    voiced = tuple(item for item in order(altered).items(0, 4000) if len(item.reads) == 2)
    for number in (0, 1):
        found = [item.reads[number].effects for item in voiced]
        assert shares(found, lambda e: e.invert) == near(0.3)
        for channels in ("left", "right", "equal"):
            assert shares(found, lambda e, channels=channels: e.channels == channels) == near(0.2)
        slopes = [e.tilt_db for e in found]
        assert (min(slopes), max(slopes)) == (near(-2), near(2))
        assert sum(slopes) / len(slopes) == pytest.approx(0, abs=0.1)
    assert shares(voiced, lambda i: i.reads[0].effects.invert and i.reads[1].effects.invert) == near(0.09)
    assert shares(voiced, lambda i: i.reads[0].effects.tilt_db * i.reads[1].effects.tilt_db > 0) == near(0.5)
    turned = [item for item in voiced if item.reads[0].effects.invert and item.reads[0].song != "i"]
    assert shares(turned, lambda i: i.reads[1].start_frame == i.reads[0].start_frame) == pytest.approx(0.2, abs=0.06)
    decibels = [20 * math.log10(item.reads[0].gain) for item in voiced]
    assert (min(decibels), max(decibels)) == (near(-4), near(4))
    assert max(20 * math.log10(item.reads[1].gain) for item in voiced) > 6


@pytest.mark.parametrize("key", EFFECTS)
def test_an_effect_alone_is_drawn_and_moves_nothing_else(key):
    before, after, both = (
        order(SEPARATE.model_copy(update=keys)).items(0, 100) for keys in ({}, {key: EFFECTS[key]}, EFFECTS)
    )
    without, plain = (
        [[replace(r, gain=1.0, effects=Effects()) for r in i.reads] for i in items] for items in (after, before)
    )
    assert without == plain
    assert after != before
    field = {"lose_channel": "channels"}.get(key, key)
    for item, together in zip(after, both, strict=True):
        for read, other in zip(item.reads, together.reads, strict=True):
            if key == "stem_gain_db":
                assert (read.gain, read.effects) == (other.gain, Effects())
            else:
                assert read.effects == Effects(**{field: getattr(other.effects, field)})


def test_more_vocals_are_a_strangers_and_beside_vocals_alone():
    more = SEPARATE.model_copy(update={"more_vocals": 0.4})
    items, before = order(more).items(0, 4000), order().items(0, 4000)
    assert [tuple(r for r in i.reads if r.slot != "more_vocals") for i in items] == [i.reads for i in before]
    voiced = [item for item in items if any(r.slot == "vocals" for r in item.reads)]
    added = [item.reads[2] for item in voiced if len(item.reads) == 3]
    assert len(added) / len(voiced) == pytest.approx(0.4, abs=0.025)
    assert {(read.role, read.slot) for read in added} == {("vocals", "more_vocals")}
    assert {read.song for read in added} == {"a", "b", "c", "v"}
    assert 0 < len(voiced) < len(items)
    assert all(len(item.reads) == 1 for item in items if item not in voiced)


def test_switched_off_augmentation_is_off():
    plain = SeparateSpec(remix=0.0, gain_db=0.0, swap_channels=0.0, silent_vocals=0.0)
    for item in order(plain).items(0, 200):
        assert len(item.reads) == 2
        assert not item.reads[0].swap
        assert not item.reads[1].swap
        assert item.reads[1].gain == 1.0
        assert item.reads[0].song in (item.reads[1].song, "i")


def test_one_option_does_not_move_the_others():
    base, loud = order().items(0, 300), order(SEPARATE.model_copy(update={"gain_db": 12.0})).items(0, 300)
    assert [[(r.song, r.start_frame, r.swap) for r in i.reads] for i in base] == [
        [(r.song, r.start_frame, r.swap) for r in i.reads] for i in loud
    ]


def test_the_sequence_is_this_one_for_ever():
    """A change of these numbers breaks the resumption of every run: it needs a reason and a note to users."""
    found = [
        [(r.song, r.role[0], r.start_frame, round(r.gain, 6), r.swap) for r in item.reads]
        for item in order().items(1000, 3)
    ]
    assert found == EXPECTED


EXPECTED: list[list[tuple[str, str, int, float, bool]]] = [
    [("a", "i", 24, 1.0, False), ("c", "v", 15, 0.724125, False)],
    [("a", "i", 22, 1.0, True), ("c", "v", 68, 1.299311, True)],
    [("c", "i", 15, 1.0, False), ("c", "v", 44, 1.056444, False)],
]


@pytest.mark.parametrize(
    ("objective", "songs"),
    [
        (SEPARATE, [CatalogueRow("m", ("mixture",), 64)]),
        (SEPARATE, [CatalogueRow("i", ("instrumental",), 64)]),
        (MaskedFramesSpec(), [CatalogueRow("a", ("vocals", "instrumental"), 64)]),
        (MaskedFramesSpec(), []),
    ],
)
def test_a_data_set_without_what_is_needed_is_refused(objective, songs):
    with pytest.raises(ManifestError, match=r"no song for training has what the objective .* needs"):
        Order(songs, objective, 0, CROP)


def test_vocals_of_other_songs_are_drawn_where_they_are_heard():
    """Every frame that is heard is as likely as any other to be in the middle, and none that is not heard."""
    songs = (
        CatalogueRow("a", BOTH, 200, ((50, 60), (150, 170))),
        CatalogueRow("b", BOTH, 100, ((90, 100),)),
        CatalogueRow("c", BOTH, 100, ()),
    )
    always = SeparateSpec(remix=1.0, silent_vocals=0.0, swap_channels=0.0)
    drawn = Counter()
    for item in order(always, songs=songs).items(0, 8000):
        (vocals,) = (read for read in item.reads if read.role == "vocals")
        drawn[vocals.song, vocals.start_frame] += 1
    middles = {("a", f - CROP // 2) for f in (*range(50, 60), *range(150, 170))}
    at_end = {("b", min(f - CROP // 2, 100 - CROP)) for f in range(90, 100)}
    assert set(drawn) == middles | at_end
    for start in middles:
        assert drawn[start] == pytest.approx(200, rel=0.4), start


def test_songs_that_are_silent_throughout_are_better_than_none():
    songs = (CatalogueRow("a", BOTH, 40, ()), CatalogueRow("b", BOTH, 40, ()))
    always = SeparateSpec(remix=1.0, silent_vocals=0.0)
    vocals = [item.reads[1] for item in order(always, songs=songs).items(0, 200)]
    assert {read.song for read in vocals} == {"a", "b"}
    assert {read.start_frame for read in vocals} == set(range(40 - CROP + 1))
