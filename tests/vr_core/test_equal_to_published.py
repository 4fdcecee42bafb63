"""Our models say what published packages' models say with equal weights (recorded by `tests.bench.equal`)."""

import pytest

from tests.bench.equal import GOAL, difference, ours, read
from tests.published import CASES, RECORDED


@pytest.mark.parametrize("name", CASES)
def test_a_song_sounds_as_the_published_model_makes_it(name):
    published, names = read(RECORDED / f"{name}.safetensors")
    said, own_names = ours(CASES[name])
    assert own_names == names  # names and shapes of all tensors
    assert published.std() > 0.01
    assert said.shape[:-1] == published.shape[:-1]
    assert difference(said, published) < GOAL
