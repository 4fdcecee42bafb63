"""What one decoder refuses or stops in, the other is asked for; and what neither reads whole stays refused."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataprep.audio.decoders import AudioSource, decode, looks_like_audio
from dataprep.audio.decoding import ogg
from dataprep.audio.files import open_audio, probe, read_audio
from dataprep.audio.source import Part
from dataprep.errors import AudioError, FullScaleError, TruncatedAudioError, UnreadableAudioError
from tests.dataprep.joined import CountedPath
from tests.dataprep.ogg_pages import OggPage, ogg_pages, with_pages
from tests.dataprep.sounds import RATE_HZ, make, music, snr_db, write_as

SIGNAL = music(100_000)


def read(path: Path) -> tuple[np.ndarray, list[str]]:
    notes: list[str] = []
    blocks = list(open_audio(AudioSource(path), probe(AudioSource(path)).sample_rate_hz, notes=notes))
    return np.concatenate(blocks, axis=1), notes


def opus(path: Path, jump_samples: int = 0, seconds: int = 6) -> Path:
    """Opus in Ogg; with a jump in its positions, as FFmpeg leaves it that copies from a webm."""
    write_as(path, music(48_000 * seconds), "libopus", "opus", "flt", 48_000)
    pages = ogg_pages(path)
    for page in pages[3:-1]:
        page.position += jump_samples
    path.write_bytes(with_pages(pages))
    return path


def test_opus_with_positions_that_jump_is_read_by_ffmpeg(tmp_path):
    """libsndfile stops in the middle of these."""
    even, jumping = opus(tmp_path / "even.opus"), opus(tmp_path / "jumping.opus", jump_samples=-312)
    expected = soundfile.read(even, dtype="float32")[0].T
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(jumping)
    found, notes = read(jumping)
    assert 0 <= found.shape[1] - expected.shape[1] <= 312
    assert np.abs(found[:, : expected.shape[1]] - expected).max() < 1e-5
    assert notes == ["jumping.opus read by FFmpeg; libsndfile refuses it or stops in the middle"]


def test_opus_that_libsndfile_reads_stays_with_it_to_the_bit(tmp_path):
    path = opus(tmp_path / "a.opus")
    found, notes = read(path)
    assert np.array_equal(found, soundfile.read(path, dtype="float32")[0].T)
    assert notes == []


@pytest.mark.parametrize("jump_samples", [0, -312])
def test_the_pages_of_a_file_are_walked_once_for_each_state_of_it(tmp_path, monkeypatch, jump_samples):
    walks = []
    real = ogg._pages
    monkeypatch.setattr(ogg, "_pages", lambda file: walks.append(file.name) or real(file))
    path = opus(tmp_path / "a.opus", jump_samples)
    infos = [probe(AudioSource(path)) for _ in range(3)]
    assert len(walks) == 1
    assert infos[0] == infos[1] == infos[2]
    assert probe(AudioSource(opus(path, -600))).refused_by == "libsndfile"
    assert len(walks) == 2


@pytest.mark.parametrize("joined", [1, 2])
def test_of_vorbis_only_the_heads_of_pages_are_looked_at(tmp_path, joined):
    """Pages as large as they may be: reading them would be reading the file."""
    soundfile.write(tmp_path / "x.ogg", music(400_000).T, RATE_HZ, format="OGG")
    head = ogg_pages(tmp_path / "x.ogg")[0]
    large = [OggPage(b"OggS\0\0", k, bytes(12) + b"\xff" + b"\xfe" * 255 + bytes(254 * 255)) for k in range(20)]
    path = CountedPath(tmp_path / "a.ogg")
    path.write_bytes(with_pages([head, *large]) * joined)
    size = path.stat().st_size // joined
    assert ogg.facts(path).links == tuple(Part(k * size, (k + 1) * size) for k in range(joined))
    assert path.bytes_read < 20_000 * joined


def test_a_damaged_page_of_opus_is_noticed_by_either_decoder(tmp_path):
    for jump_samples in (0, -312):
        path = opus(tmp_path / "a.opus", jump_samples)
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
        path.write_bytes(data)
        with pytest.raises(TruncatedAudioError):
            read(path)


def test_opus_that_is_cut_stays_refused(tmp_path):
    for jump_samples in (0, -312):
        path = opus(tmp_path / "a.opus", jump_samples)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        with pytest.raises(TruncatedAudioError, match=r"a\.opus: truncated"):
            read(path)


def test_flac_in_ogg_is_read_without_loss(tmp_path):
    path = write_as(tmp_path / "a.ogg", SIGNAL, "flac", "ogg", "s16")
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(path)
    found, notes = read(path)
    assert found.shape == SIGNAL.shape
    assert np.abs(found - SIGNAL).max() < 2**-14
    assert notes == ["a.ogg read by FFmpeg; libsndfile refuses it or stops in the middle"]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(TruncatedAudioError):
        read(path)


def test_mp3_in_a_wav_is_read(tmp_path):
    found, notes = read(write_as(tmp_path / "a.wav", SIGNAL, "libmp3lame", "wav", "fltp"))
    assert notes == ["a.wav read by FFmpeg; libsndfile refuses it or stops in the middle"]
    assert SIGNAL.shape[1] <= found.shape[1] < SIGNAL.shape[1] + 4 * 1152
    at = int(np.argmax(np.correlate(found[0, :6000], SIGNAL[0, :3000], "valid")))
    assert snr_db(SIGNAL[:, :90_000], found[:, at : at + 90_000]) > 8


def test_an_mp3_in_a_wav_that_is_cut_is_refused(tmp_path):
    path = write_as(tmp_path / "a.wav", SIGNAL, "libmp3lame", "wav", "fltp")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TruncatedAudioError, match=r"a\.wav: truncated, the header promises [\d,]+ bytes of samples"):
        probe(AudioSource(path))


@pytest.mark.parametrize("name", ["a.mp3", "A.MP3", "a.wav"])
def test_what_is_no_mp3_is_refused_without_a_word_of_a_library(tmp_path, capfd, name):
    """libmpg123, which libsndfile asks, writes to the file descriptor of stderr itself."""
    path = tmp_path / name
    noise = np.random.default_rng(0).bytes(100_000)
    if path.suffix == ".wav":
        write_as(path, SIGNAL, "libmp3lame", "wav", "fltp")
        head = path.read_bytes()
        noise = head[: head.index(b"data") + 8] + bytes(len(head))
    path.write_bytes(noise)
    with pytest.raises(AudioError, match=name):
        read(path)
    assert capfd.readouterr().err == ""


def test_a_file_that_libsndfile_knows_and_ffmpeg_does_not_is_read(tmp_path):
    soundfile.write(tmp_path / "a.paf", SIGNAL.T, RATE_HZ, format="PAF", subtype="PCM_24")
    found, notes = read(tmp_path / "a.paf")
    assert np.abs(found - SIGNAL).max() < 2**-22
    assert notes == ["a.paf read by libsndfile; FFmpeg refuses it or stops in the middle"]


def test_the_reason_is_that_of_the_decoder_that_should_read_it(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF\x40\0\0\0WAVEfmt " + bytes(60))
    with pytest.raises(UnreadableAudioError, match=r"a\.wav: cannot be read as audio"):
        probe(AudioSource(tmp_path / "a.wav"))


def stopping(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """libsndfile that fails behind so many samples."""
    whole = soundfile.SoundFile.read

    def fails(self: soundfile.SoundFile, *args: object, **kwargs: object) -> np.ndarray:
        if self.tell() >= after:
            raise soundfile.LibsndfileError(0, "it stops here: ")
        return np.asarray(whole(self, *args, **kwargs))

    monkeypatch.setattr(soundfile.SoundFile, "read", fails)


@pytest.mark.parametrize("kind", ["flac", "wav", "aiff"])
def test_where_libsndfile_stops_in_the_middle_ffmpeg_goes_on(tmp_path, monkeypatch, kind):
    path = make(tmp_path, kind, music(300_000))
    expected, notes = read(path)
    assert notes == []
    stopping(monkeypatch, 2**17)
    found, notes = read(path)
    assert np.array_equal(found, expected)
    assert notes == [f"song.{kind} read by FFmpeg from the middle on, where libsndfile stops"]


def test_damage_is_damage_to_both(tmp_path, monkeypatch):
    """FFmpeg passes over frames whose checksum is wrong, unless it is told to mind."""
    path = make(tmp_path, "flac", music(300_000))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TruncatedAudioError, match="damaged or cut"):
        read(path)
    stopping(monkeypatch, 0)
    with pytest.raises(TruncatedAudioError, match="damaged or cut after 0 samples"):
        read(path)


FORMATS = {
    "webm": ("libopus", "webm", "flt", 48_000),
    "mka": ("flac", "matroska", "s16", RATE_HZ),
    "aac": ("aac", "adts", "fltp", RATE_HZ),
    "wma": ("wmav2", "asf", "fltp", RATE_HZ),
    "caf": ("pcm_s16be", "caf", "s16", RATE_HZ),
    "w64": ("pcm_s16le", "w64", "s16", RATE_HZ),
    "au": ("pcm_s16be", "au", "s16", RATE_HZ),
    "wv": ("wavpack", "wv", "s16p", RATE_HZ),
    "tta": ("tta", "tta", "s16", RATE_HZ),
    "ac3": ("ac3", "ac3", "fltp", RATE_HZ),
    "ts": ("aac", "mpegts", "fltp", RATE_HZ),
    "mov": ("pcm_s16le", "mov", "s16", RATE_HZ),
    "avi": ("pcm_s16le", "avi", "s16", RATE_HZ),
    "flv": ("libmp3lame", "flv", "fltp", RATE_HZ),
    "mp3": ("libmp3lame", "mp3", "fltp", RATE_HZ),
    "m4a": ("aac", "mp4", "fltp", RATE_HZ),
    "alac": ("alac", "mp4", "s16p", RATE_HZ),
    "flac": ("flac", "flac", "s16", RATE_HZ),
    "ogg": ("libopus", "ogg", "flt", 48_000),
    "wav": ("pcm_s16le", "wav", "s16", RATE_HZ),
    "aiff": ("pcm_s16be", "aiff", "s16", RATE_HZ),
}
LOSSLESS = {"mka", "caf", "w64", "au", "wv", "tta", "mov", "alac", "avi", "flac", "wav", "aiff"}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_known_by_its_content_and_read_without_a_suffix(tmp_path, kind):
    codec, container, sample_format, rate_hz = FORMATS[kind]
    path = write_as(tmp_path / "song", SIGNAL, codec, container, sample_format, rate_hz)
    assert looks_like_audio(path)
    found = read_audio(AudioSource(path), rate_hz)
    assert abs(found.shape[1] - SIGNAL.shape[1]) <= 4096
    if kind in LOSSLESS:
        assert found.shape == SIGNAL.shape
        assert np.abs(found - SIGNAL).max() < 2**-14
    else:
        # Codecs without a header that says so begin by up to a packet early or late.
        late = int(np.argmax(np.correlate(found[0, :20_000], SIGNAL[0, 8000:10_000], "valid"))) - 8000
        assert abs(late) <= 4096
        assert snr_db(SIGNAL[:, 8000:80_000], found[:, 8000 + late : 80_000 + late]) > 5


@pytest.mark.parametrize(
    "data",
    [
        b"", b"#!/bin/sh\necho\n", b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(500), b"\x89PNG\r\n\x1a\n" + bytes(500),
        b"%PDF-1.7\n" + bytes(500), b"PK\x03\x04" + bytes(500), bytes(5000), b"\0\0\0\x18ftypheic" + bytes(500),
        b"#EXTM3U\nsong.mp3\n", "Öffentliche Notizen\n".encode() * 50, "\ufefftext".encode("utf-16"),
        b"RIFF\x40\0\0\0WEBPVP8 " + bytes(500), b"\xff\xfb\x90\x64" + b"text " * 900, b"bplist00" + bytes(300),
        b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(300), b"\xff\xf1" + b"\xfe" * 400,
    ],
    ids=["nothing", "script", "jpeg", "png", "pdf", "zip", "zeros", "heic", "playlist", "text", "utf-16", "webp",
         "one frame", "plist", "appledouble", "noise"],
)  # fmt: skip
def test_other_files_do_not_look_like_audio(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    assert not looks_like_audio(tmp_path / "x")


@pytest.mark.parametrize(("scale", "bits"), [(2**15, "16"), (2**23, "24")])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floats_at_the_scale_of_integers_are_told_so(tmp_path, subtype, scale, bits):
    soundfile.write(tmp_path / "a.wav", SIGNAL.T * scale, RATE_HZ, subtype=subtype)
    with pytest.raises(FullScaleError, match=rf"full scale is 1 for floats.*{bits}-bit integers.*divide.*{scale:,}"):
        probe(AudioSource(tmp_path / "a.wav"))
    soundfile.write(tmp_path / "b.wav", SIGNAL.T * 20, RATE_HZ, subtype=subtype)  # loud, and meant so perhaps
    assert read_audio(AudioSource(tmp_path / "b.wav"), RATE_HZ).max() > 5


def test_a_passage_at_the_scale_of_integers_is_found_while_reading(tmp_path):
    signal = music(1_000_000)
    signal[:, 70_000:72_000] *= 2**15
    soundfile.write(tmp_path / "a.wav", signal.T, RATE_HZ, subtype="FLOAT")
    assert probe(AudioSource(tmp_path / "a.wav")).samples == 1_000_000
    with pytest.raises(FullScaleError, match="full scale is 1 for floats"):
        read_audio(AudioSource(tmp_path / "a.wav"), RATE_HZ)


def test_decoding_twice_gives_the_same_samples(tmp_path):
    for path in (opus(tmp_path / "a.opus", -312), make(tmp_path, "mp3", SIGNAL), make(tmp_path, "m4a", SIGNAL)):
        source = AudioSource(path)
        first, second = (np.concatenate(list(decode(source, probe(source))), axis=1) for _ in range(2))
        assert np.array_equal(first, second)


def test_audio_without_samples_of_any_stream_is_an_audio_error(tmp_path):
    (tmp_path / "a.opus").write_bytes(opus(tmp_path / "b.opus").read_bytes()[:200])
    with pytest.raises(AudioError):
        read_audio(AudioSource(tmp_path / "a.opus"), 48_000)


@pytest.mark.parametrize("kind", ["wav", "aiff", "flac", "mp3", "m4a", "ogg", "mka", "caf", "w64", "au"])
@given(
    flips=st.lists(st.tuples(st.integers(0, 600), st.sampled_from([0, 1, 0x7F, 0xFF])), max_size=5),
    kept=st.none() | st.integers(1, 600),
    behind=st.binary(max_size=40),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_head_is_an_audio_error_or_audio(tmp_path, kind, flips, kept, behind):
    whole = tmp_path / f"whole.{kind}"
    if not whole.exists():
        codec, container, sample_format, rate_hz = FORMATS[kind]
        write_as(whole, SIGNAL[:, :9000], codec, container, sample_format, rate_hz)
    data = bytearray(whole.read_bytes()[:kept])
    for at, value in flips:
        data[at % len(data)] = value
    path = tmp_path / "damaged"
    path.write_bytes(data + behind)
    looks_like_audio(path)
    with suppress(AudioError):
        assert np.isfinite(read_audio(AudioSource(path), 48_000)).all()


def test_an_ogg_file_whose_first_page_does_not_begin_a_stream(tmp_path):
    data = bytearray(opus(tmp_path / "a.opus").read_bytes())
    data[5] = 0
    (tmp_path / "a.opus").write_bytes(data)
    with pytest.raises(AudioError):
        read_audio(AudioSource(tmp_path / "a.opus"), 48_000)
