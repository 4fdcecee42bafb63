"""A model whose mask is known, over stems of which it is known what is in them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dataprep.audio.tracks import Track
from dataprep.errors import ManifestError
from dataprep.inspecting.model_checks import listen, require_hearable
from dataprep.preparing.prepare import prepare
from dataprep.shards.dataset import Dataset
from tests.dataprep.data import SETTINGS, STFT, labelled, write
from tests.masking import Masking
from vr_core.draws import Draws
from vr_core.errors import WeightsError
from vr_core.models.heads import Answer
from vr_core.specs.fronts import Front
from vr_core.specs.heads import HeadSpec
from vr_core.specs.stft import StftSpec

SAMPLES = 40_000


class HighIsInstrumental(Masking):
    """Keeps what lies above 1 kHz, as if all voices were low."""

    def mask(self, magnitude: Tensor) -> Tensor:
        hz = torch.arange(magnitude.shape[2]) * STFT.sample_rate_hz / STFT.n_fft
        return (hz > 1000).float()[None, None, :, None].expand_as(magnitude)


class OfItsOwnEar(Masking):
    """The same as vocals, of an STFT of its own; what it hears is noted."""

    head = HeadSpec(kind="complex_mask", stems=("drums", "vocals"))
    front = Front(StftSpec(sample_rate_hz=8000, n_fft=512, hop=64), True, True, context_frames=3, scale="song_peak")

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Tensor] = []

    def forward(self, heard: Tensor, draws: Draws | None = None) -> Answer:
        self.heard.append(heard)
        hz = torch.arange(heard.shape[2]) * 8000 / 512
        low = (hz <= 1000).to(heard.dtype)[None, None, :, None].expand_as(heard)
        return {"complex_mask": torch.stack([torch.full_like(low, 1j), low], dim=1)}


def tone(hz: float) -> np.ndarray:
    return np.tile(0.2 * np.sin(2 * np.pi * hz * np.arange(SAMPLES) / STFT.sample_rate_hz), (2, 1)).astype(np.float32)


@pytest.fixture
def data(tmp_path):
    low, high = tone(437.5), tone(2000.0)
    songs = {
        "clean": (low, high),
        "swapped": (high, low),
        "leaking": (low + 0.5 * high, high),
        "mixture": (low, low + high),
        "silent": (0 * low, high),
    }
    tracks = [
        Track(
            name,
            {
                "vocals": (write(tmp_path / name / "v.wav", vocals),),
                "instrumental": (write(tmp_path / name / "i.wav", instrumental),),
            },
        )
        for name, (vocals, instrumental) in songs.items()
    ]
    prepare(tracks, tmp_path / "data", SETTINGS)
    return Dataset.open(tmp_path / "data")


def test_what_is_foreign_is_its_share_of_the_energy(data):
    done = []
    scores = {
        (score.song, score.role): score
        for score in listen(data, HighIsInstrumental(), 16, torch.device("cpu"), done.append)
    }
    wanted = {"clean": (0, 0), "swapped": (1, 1), "leaking": (0.2, 0), "mixture": (0, 0.5), "silent": (0, 0)}
    for song, (vocals, instrumental) in wanted.items():
        assert scores[song, "vocals"].foreign == pytest.approx(vocals, abs=0.01), song
        assert scores[song, "instrumental"].foreign == pytest.approx(instrumental, abs=0.01), song
    suspicious = {(score.song, score.role) for score in scores.values() if score.is_suspicious}
    both = {("swapped", "vocals"), ("swapped", "instrumental")}
    assert suspicious == both | {("leaking", "vocals"), ("mixture", "instrumental")}
    assert done == sorted(wanted)


def test_a_model_with_an_ear_of_its_own_hears_what_it_was_trained_on(data):
    model = OfItsOwnEar()
    require_hearable(data, model, model.front.stft)
    scores = {(s.song, s.role): s.foreign for s in listen(data, model, 40, torch.device("cpu"))}
    wanted = {"clean": (0, 0), "swapped": (1, 1), "leaking": (0.2, 0), "mixture": (0, 0.5), "silent": (0, 0)}
    for song, (vocals, instrumental) in wanted.items():
        assert scores[song, "vocals"] == pytest.approx(vocals, abs=0.01), song
        assert scores[song, "instrumental"] == pytest.approx(instrumental, abs=0.01), song
    for heard in model.heard:
        assert (heard.is_complex(), heard.shape[0], heard.shape[2]) == (True, 1, 257)
        assert 40 <= heard.shape[3] <= 42


def test_stems_that_are_too_short_for_a_window_are_left_out(tmp_path):
    prepare([labelled(tmp_path, "short", 200, 0), labelled(tmp_path, "long", 9000, 1)], tmp_path / "data", SETTINGS)
    model = OfItsOwnEar()
    scores = list(listen(Dataset.open(tmp_path / "data"), model, 40, torch.device("cpu")))
    assert [(score.song, score.role) for score in scores] == [("long", "vocals"), ("long", "instrumental")]
    # Windows of a stem are heard in parts of one peak, not each of its own.
    peaks = [float(heard.abs().max()) for heard in model.heard]
    assert sum(peak > 0.99999 for peak in peaks) == 2 < len(peaks)


def test_what_a_model_cannot_hear_is_refused(data, monkeypatch):
    model = OfItsOwnEar()
    with pytest.raises(ManifestError, match="other STFT settings: n_fft 256 in the data set, 512 asked for"):
        require_hearable(data, HighIsInstrumental(), model.front.stft)
    with monkeypatch.context() as changed:
        changed.setattr(type(data.manifest), "codec_of", lambda self, role: "magnitude8")
        require_hearable(data, HighIsInstrumental(), STFT)
        with pytest.raises(ManifestError, match=r"stores vocals without phase \(magnitude8\), which this model needs"):
            require_hearable(data, model, model.front.stft)
    model.front = Front(StftSpec(), True, True)
    with pytest.raises(ManifestError, match="sample_rate_hz 8000 in the data set, 44100 asked for"):
        require_hearable(data, model, StftSpec())
    model.head = HeadSpec(stems=("drums",))
    with pytest.raises(WeightsError, match="answer with drums, which says nothing of what is foreign"):
        require_hearable(data, model, StftSpec())
