import gc
import threading
from dataclasses import dataclass, replace

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dataprep.batches.loader import CodedBatch, Loader, read_batch, sounds_of
from dataprep.batches.order import Item, Order, Read, cut, fixed_items, shards_read
from dataprep.errors import ManifestError, ShardError
from dataprep.shards.codecs import CODECS
from dataprep.shards.columns import has_phase
from dataprep.shards.dataset import Dataset
from dataprep.shards.splits import SplitByList
from tests.dataprep.data import STFT, small_data_set, whole_stem
from vr_core.specs.objectives import MaskedFramesSpec, ObjectiveSpec, SeparateSpec
from vr_core.specs.slots import Effects, Signals, Slot
from vr_core.specs.stft import StftSpec

CROP = 48
CPU = torch.device("cpu")
SEPARATE = SeparateSpec(silent_vocals=0.2)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("set")
    rule = SplitByList((("valid", "d"), ("valid", "m1"), ("train", "*")), "test")
    small_data_set(root, rule)
    return Dataset.open(root / "data")


def contents(batch: CodedBatch) -> list[dict[str, bytes]]:
    """Everything stored in a batch, an entry an item; a stem without sound is as one that is not there."""
    rows = []
    for i in range(len(batch.items)):
        row: dict[str, bytes] = {}
        for role, stem in batch.slots.items():
            if float(stem.scale[i].max()) > 0:
                row |= {f"{role}.{name}": column[i].numpy().tobytes() for name, column in stem.columns.items()}
                row[f"{role}.scale"] = stem.scale[i].numpy().tobytes()
        rows.append(row)
    return rows


def magnitudes_of(objective: ObjectiveSpec, batch: CodedBatch, device: torch.device = CPU) -> list[torch.Tensor]:
    return [sound.magnitude for sound in sounds_of(batch, objective.signals, device, torch.float32).values()]


@pytest.mark.parametrize("objective", [SEPARATE, MaskedFramesSpec()])
@settings(max_examples=10)
@given(draw=st.data())
def test_bit_identical_items_for_any_ranks_and_shares(data, objective, draw):
    order = Order.of(data.manifest, objective, 3, CROP)
    items, step = 12, draw.draw(st.integers(0, 1000))
    borders = sorted(draw.draw(st.lists(st.integers(0, items), max_size=3)))
    shares = [b - a for a, b in zip([0, *borders], [*borders, items], strict=True)]
    micro = draw.draw(st.integers(1, items))
    expected = contents(read_batch(data, order.items(step * items, items)))
    found: list[dict[str, bytes]] = []
    for first, end in cut(step * items, shares):
        pieces = [order.items(at, min(micro, end - at)) for at in range(first, end, micro)]
        loader = Loader(data, pieces, CPU)
        for batch in loader:
            found += contents(batch)
        loader.close()
    assert found == expected


def naive_magnitude(data: Dataset, item: Item, roles: set[str], altered=lambda values, _: values) -> np.ndarray:
    """`[channel, bin, frame]` in double precision, from whole stems."""
    total = np.zeros((2, STFT.bins, CROP), np.complex128)
    for read in item.reads:
        if read.role not in roles:
            continue
        codec = CODECS[data.manifest.codec_of(read.role)]
        wanted = slice(read.start_frame, read.start_frame + read.frames)
        columns = {name: column[:, wanted] for name, column in whole_stem(data, read.song, read.role).items()}
        peaks = np.array([data.song(read.song).stems[read.role].peaks[0]], np.float32)
        scale = torch.from_numpy(peaks).expand(1, read.frames)
        widened = codec.widen(columns, scale) if has_phase(codec.name) else codec.widen_magnitude(columns, scale)
        values = widened[0].numpy().astype(np.complex128) * read.gain
        total[:, :, : read.frames] += altered(values[::-1] if read.swap else values, read.effects)
    return np.abs(total)


def test_magnitudes_equal_a_naive_mix(data):
    items = Order.of(data.manifest, SEPARATE, 5, CROP).items(0, 40)
    assert {len(item.reads) for item in items} == {1, 2}
    assert any(read.frames < CROP for item in items for read in item.reads) == (data.song("b").frames < CROP)
    mixture, instrumental = magnitudes_of(SEPARATE, read_batch(data, items))
    assert mixture.shape == instrumental.shape == (40, 2, STFT.bins, CROP)
    for i, item in enumerate(items):
        np.testing.assert_allclose(mixture[i], naive_magnitude(data, item, {"instrumental", "vocals"}), atol=1e-5)
        np.testing.assert_allclose(instrumental[i], naive_magnitude(data, item, {"instrumental"}), atol=1e-5)


ALTERED = SeparateSpec(
    stems=("vocals", "instrumental"), silent_vocals=0.2, more_vocals=0.5, stem_gain_db=6.0, invert=0.5,
    lose_channel=0.5, tilt_db=3.0,
)  # fmt: skip


def naive_effects(values: np.ndarray, effects: Effects) -> np.ndarray:
    """Of one read `[channel, bin, frame]`, a bin at a time."""
    left, right = -values if effects.invert else values
    found = {"both": (left, right), "left": (left, 0 * left), "right": (0 * left, right)}
    altered = np.stack(found.get(effects.channels, ((left + right) / 2,) * 2))
    for number in range(altered.shape[1]):
        hz = max(number, 1) * STFT.sample_rate_hz / STFT.n_fft
        altered[:, number] *= 10 ** (effects.tilt_db * np.log2(hz / 1000) / 20)
    return altered


@pytest.mark.parametrize("phase", [False, True])
def test_effects_and_more_vocals_equal_a_naive_mix_and_do_not_depend_on_the_batch(data, phase):
    objective = ALTERED.model_copy(update={"mask": "complex"}) if phase else ALTERED
    items = Order.of(data.manifest, objective, 5, CROP).items(0, 40)
    assert {len(item.reads) for item in items} == {1, 2, 3}
    found = sounds_of(read_batch(data, items), objective.signals, CPU, torch.float32)
    assert {sound.spectrum is not None for sound in found.values()} == {phase}
    of_roles = {"mixture": {"vocals", "instrumental"}, "vocals": {"vocals"}, "instrumental": {"instrumental"}}
    for i, item in enumerate(items):
        alone = sounds_of(read_batch(data, [item]), objective.signals, CPU, torch.float32)
        for name, roles in of_roles.items():
            wanted = naive_magnitude(data, item, roles, naive_effects)
            np.testing.assert_allclose(found[name].magnitude[i], wanted, atol=2e-5)
            assert torch.equal(found[name].magnitude[i], alone[name].magnitude[0])


def test_validation_has_no_effects_and_one_singer(data):
    assert fixed_items(data.manifest, ALTERED, CROP, 6) == fixed_items(data.manifest, SEPARATE, CROP, 6)


def test_pretraining_reads_mixtures_alone(data):
    items = Order.of(data.manifest, MaskedFramesSpec(), 5, CROP).items(0, 20)
    batch = read_batch(data, items)
    assert set(batch.slots) == {"mixture"}
    [mixture] = magnitudes_of(MaskedFramesSpec(), batch)
    short = [i for i, item in enumerate(items) if item.reads[0].song == "m2"]
    assert short
    frames = data.song("m2").frames
    assert frames < CROP
    for i, item in enumerate(items):
        np.testing.assert_allclose(mixture[i], naive_magnitude(data, item, {"mixture"}), atol=1e-5)
    assert float(mixture[short[0], :, :, frames:].max()) == 0


def test_a_batch_without_any_vocals(data):
    items = (Item(0, 0, CROP, (Read("a", "instrumental", 0, CROP),)),)
    mixture, instrumental = magnitudes_of(SEPARATE, read_batch(data, items))
    assert torch.equal(mixture, instrumental)
    assert float(mixture.max()) > 0


@dataclass(frozen=True)
class TwoMixtures:
    """An objective of this test: a mixture, and one of another song or place."""

    name: str = "two_mixtures"
    signals: Signals = Signals(
        (
            Slot("one", "mixture", swap_channels=0.5),
            Slot("other", "mixture", elsewhere=1.0, gain_db=6.0, swap_channels=0.5, silent=0.1),
        ),
        {"one": ("one",), "other": ("other",)},
    )


def test_an_objective_may_read_one_stem_twice(data):
    """Nothing but the objective's own slots says so: order, reading and sums ask it."""
    objective = TwoMixtures()
    order = Order.of(data.manifest, objective, 5, CROP)
    items = order.items(0, 60)
    assert {tuple(read.key for read in item.reads) for item in items} == {("one",), ("one", "other")}
    both = [item.reads for item in items if len(item.reads) == 2]
    assert any(one.song != other.song for one, other in both)
    assert len({other.gain for _, other in both}) > 10
    assert {(one.swap, other.swap) for one, other in both} == {(a, b) for a in (False, True) for b in (False, True)}
    one, other = magnitudes_of(objective, read_batch(data, items))
    for i, item in enumerate(items):
        [first, *second] = [replace(item, reads=(read,)) for read in item.reads]
        np.testing.assert_allclose(one[i], naive_magnitude(data, first, {"mixture"}), atol=1e-5)
        wanted = naive_magnitude(data, second[0], {"mixture"}) if second else np.zeros(one[i].shape)
        np.testing.assert_allclose(other[i], wanted, atol=1e-5)
    held_out = fixed_items(data.manifest, objective, CROP, 4)
    assert all(item.reads[0].song != item.reads[1].song for item in held_out)
    assert shards_read(data.manifest, objective) == shards_read(data.manifest, MaskedFramesSpec())


def test_what_a_further_slot_draws_changes_nothing_of_the_others(data):
    two, slots = TwoMixtures(), TwoMixtures().signals.slots
    three = TwoMixtures(signals=Signals((*slots, Slot("third", "mixture", elsewhere=0.5, gain_db=3.0))))
    few, more = (Order.of(data.manifest, objective, 5, CROP).items(0, 40) for objective in (two, three))
    assert [tuple(read for read in item.reads if read.key != "third") for item in more] == [i.reads for i in few]
    thirds = [read for item in more for read in item.reads if read.key == "third"]
    assert len({read.gain for read in thirds}) > 10


def test_three_slots_add_up(data):
    sounds = {"all": ("instrumental", "vocals", "again"), "two": ("vocals", "again"), "silent": ("nothing",)}
    reads = (
        Read("a", "instrumental", 0, CROP),
        Read("a", "vocals", 3, CROP),
        Read("a", "vocals", 9, CROP, slot="again"),
    )
    item = Item(0, 0, CROP, reads)
    for phase in (False, True):
        found = sounds_of(read_batch(data, [item]), Signals((), sounds, phase), CPU, torch.float32)
        assert (found["all"].spectrum is not None) == phase
        for sound, roles in (("all", {"instrumental", "vocals"}), ("two", {"vocals"})):
            np.testing.assert_allclose(found[sound].magnitude[0], naive_magnitude(data, item, roles), atol=1e-5)
        assert float(found["silent"].magnitude.abs().max()) == 0


def test_validation_items_are_spread_over_their_split(data):
    items = fixed_items(data.manifest, SEPARATE, CROP, 6)
    assert [item.index for item in items] == list(range(6))
    assert {read.song for item in items for read in item.reads} == {"d"}
    starts = [item.reads[0].start_frame for item in items]
    assert starts == sorted(set(starts))
    assert all(r.gain == 1 and not r.swap and r.start_frame == i.reads[0].start_frame for i in items for r in i.reads)
    assert {i.reads[0].song for i in fixed_items(data.manifest, MaskedFramesSpec(), CROP, 10)} == {"d", "m1"}
    assert fixed_items(data.manifest, SEPARATE, CROP, 6, split="test") == ()


def test_memory_is_used_again_but_never_under_the_callers_hands(data):
    order = Order.of(data.manifest, SEPARATE, 1, CROP)
    ranges = [order.items(4 * k, 4) for k in range(30)]
    expected = [contents(read_batch(data, items)) for items in ranges]
    seen = set()
    loader = Loader(data, iter(ranges), CPU)
    for k, batch in enumerate(loader):
        assert contents(batch) == expected[k]
        seen.add(batch.slots["instrumental"].columns["magnitude"].data_ptr())
    loader.close()
    assert len(seen) < 6
    assert loader.waited_s > 0


def test_memory_stays_flat_over_100_000_items(data):
    order = Order.of(data.manifest, SEPARATE, 1, 8)
    batch, process = 50, psutil.Process()
    seen = 0
    loader = Loader(data, ([*order.items(k % 2000, batch)] for k in range(0, 100_000, batch)), CPU)
    for read in loader:
        seen += len(read.items)
        if seen == 20_000:
            before_bytes = process.memory_info().rss
    loader.close()
    assert seen == 100_000
    assert process.memory_info().rss - before_bytes < 50 * 80_000, "50 bytes an item are lost"


def test_an_endless_loader_ends_when_closed(data):
    order = Order.of(data.manifest, SEPARATE, 1, CROP)
    before = threading.active_count()

    def endless():
        k = 0
        while True:
            yield order.items(k, 2)
            k += 2

    loader = Loader(data, endless(), CPU)
    assert next(loader).items == order.items(0, 2)
    loader.close()
    loader.close()
    with pytest.raises(StopIteration):
        next(loader)
    assert threading.active_count() == before


def test_an_error_comes_when_its_batch_does(data):
    good, bad = Item(0, 0, CROP, (Read("a", "mixture", 0, CROP),)), Item(1, 0, CROP, (Read("gone", "mixture", 0, 4),))
    loader = Loader(data, [(good,), (bad,), (good,)], CPU)
    assert next(loader).items == (good,)
    for _ in range(2):
        with pytest.raises(ManifestError, match="no song 'gone'"):
            next(loader)
    loader.close()


def test_a_missing_shard_is_named(small, copied, tmp_path):
    copied(small, tmp_path)
    for path in (tmp_path / "data").glob("mixture-*.arrow"):
        path.unlink()
    opened = Dataset.open(tmp_path / "data")
    with pytest.raises(ShardError, match=r"mixture-.*missing"):
        read_batch(opened, [Item(0, 0, CROP, (Read("a", "mixture", 0, CROP),))])


def test_a_data_set_refuses_other_settings_by_name(data):
    data.check(STFT)
    with pytest.raises(ManifestError, match=r"n_fft 256 in the data set, 2048 asked for.*hop 128"):
        data.check(StftSpec())


def test_songs_by_split_and_roles(data):
    assert [song.id for song in data.songs("train")] == ["a", "b", "c", "m2"]
    assert [song.id for song in data.songs("valid", ["vocals"])] == ["d"]
    assert [song.id for song in data.songs(roles=["mixture"])] == ["a", "b", "c", "d", "m1", "m2"]
    with pytest.raises(ManifestError, match="has no vocals"):
        data.peaks("m1", "vocals", 0, 1)
    with pytest.raises(ManifestError, match="frames"):
        data.read("a", "mixture", 0, 10**6, np.empty((1, 10**6, 1), np.uint8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_gets_the_same_numbers(data):
    order = Order.of(data.manifest, SEPARATE, 1, CROP)
    gpu = torch.device("cuda")
    loader = Loader(data, [order.items(8 * k, 8) for k in range(20)], gpu)
    batches = list(loader)  # copies: they outlive the loader's memory
    loader.close()
    gc.collect()
    for k, batch in enumerate(batches):
        on_gpu = magnitudes_of(SEPARATE, batch, gpu)[0]
        on_cpu = magnitudes_of(SEPARATE, read_batch(data, order.items(8 * k, 8)))[0]
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-5, atol=1e-7)
