from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from dataprep.errors import ManifestError
from dataprep.inspecting.picture import draw_song
from dataprep.shards.dataset import Dataset
from tests.dataprep.data import SETTINGS, STFT, small_data_set, sound
from vr_core.audio.picture import MelPicture


@pytest.mark.parametrize("mixture", [True, False])
def test_each_panel_shows_what_a_listener_would_hear(small: Path, tmp_path: Path, mixture: bool) -> None:
    root = small if mixture else tmp_path
    if not mixture:
        small_data_set(root, settings=SETTINGS.model_copy(update={"mixture": False}))
    drawn = {}
    draw_song(
        Dataset.open(root / "data"), "a", tmp_path / "a.png",
        draw=lambda panels, path, title: drawn.update({"title": title} | panels),
    )  # fmt: skip
    assert drawn.pop("title") == "a (train, as stored)"
    vocals, instrumental = sound(40_000, 0), sound(40_000, 1000)
    wanted = {"mixture": vocals + instrumental, "vocals": vocals, "instrumental": instrumental}
    assert list(drawn) == list(wanted)
    for role, signal in wanted.items():
        heard = MelPicture(STFT)
        heard.update(signal)
        one, other = (picture.decibels()[:, 2:310] for picture in (drawn[role], heard))
        difference = np.abs(one - other)[other > other.max() - 40]
        assert difference.mean() < 0.2, role  # a step of the codec is 0.43 dB
        assert drawn[role].samples == 40_000


def test_a_song_without_labels_has_one_panel_and_an_unknown_one_none(small: Path, tmp_path: Path) -> None:
    data = Dataset.open(small / "data")
    draw_song(data, "m1", tmp_path / "m1.png")
    draw_song(data, "a", tmp_path / "a.png")
    one, three = (matplotlib.image.imread(tmp_path / f"{name}.png").shape[0] for name in ("m1", "a"))
    assert one < three / 2
    with pytest.raises(ManifestError, match="no song 'nobody'"):
        draw_song(data, "nobody", tmp_path / "nobody.png")
    assert not (tmp_path / "nobody.png").exists()
