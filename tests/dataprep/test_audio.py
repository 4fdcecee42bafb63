import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from dataprep.audio.decoders import decode
from dataprep.audio.files import AudioSource, open_audio, probe, read_audio
from dataprep.audio.writing import write_audio
from dataprep.errors import (
    AudioError,
    AudioTooLongError,
    AudioWriteError,
    EmptyAudioError,
    NonFiniteAudioError,
    TruncatedAudioError,
    UnreadableAudioError,
)
from tests.dataprep.sounds import RATE_HZ, make, music, snr_db, write_coded


@pytest.mark.parametrize(
    ("kind", "least_db"), [("wav", 60), ("aiff", 60), ("flac", 60), ("ogg", 8), ("mp3", 8), ("m4a", 8), ("mp4", 8)]
)
def test_every_format_gives_the_signal_at_its_place_and_length(tmp_path, kind, least_db):
    signal = music(2 * RATE_HZ + 77)
    path = make(tmp_path, kind, signal)
    info = probe(AudioSource(path))
    # FFmpeg's mp4 writer states lengths in whole milliseconds.
    cut = RATE_HZ // 1000 if kind in ("m4a", "mp4") else 0
    assert (info.sample_rate_hz, info.channels) == (RATE_HZ, 2)
    assert info.samples is not None
    assert 0 <= signal.shape[1] - info.samples <= cut
    found = read_audio(AudioSource(path), RATE_HZ)
    assert found.dtype == np.float32
    assert found.shape == (2, info.samples)
    assert snr_db(signal[:, : info.samples], found) > least_db


def test_the_decoder_is_chosen_by_content_not_by_name(tmp_path):
    signal = music(RATE_HZ)
    for kind, name in (("m4a", "a.wav"), ("flac", "b.mp3"), ("mp3", "c.flac")):
        path = make(tmp_path, kind, signal).rename(tmp_path / name)
        assert read_audio(AudioSource(path), RATE_HZ).shape == signal.shape


def test_streams_of_a_stem_file_are_told_apart(tmp_path):
    stems = [music(RATE_HZ, seed=k) for k in range(5)]
    path = write_coded(tmp_path / "song.stem.mp4", stems, "aac", "mp4")
    for k, stem in enumerate(stems):
        assert snr_db(stem, read_audio(AudioSource(path, k), RATE_HZ)) > 8
    with pytest.raises(UnreadableAudioError, match="5 audio streams, expected at least 6"):
        probe(AudioSource(path, 5))
    with pytest.raises(UnreadableAudioError, match="no audio stream 1"):
        probe(AudioSource(make(tmp_path, "wav", stems[0]), 1))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_sample_formats_have_one_scale(tmp_path, subtype):
    signal = music(5000)
    soundfile.write(tmp_path / "a.wav", signal.T, RATE_HZ, subtype=subtype)
    step = 2.0**-6 if subtype == "PCM_U8" else 2.0**-14
    assert np.abs(read_audio(AudioSource(tmp_path / "a.wav"), RATE_HZ) - signal).max() < step


def test_mono_is_copied_and_surround_refused(tmp_path):
    mono = music(3000, channels=1)
    soundfile.write(tmp_path / "mono.wav", mono.T, RATE_HZ, subtype="FLOAT")
    found = read_audio(AudioSource(tmp_path / "mono.wav"), RATE_HZ)
    assert np.array_equal(found, np.repeat(mono, 2, axis=0))
    soundfile.write(tmp_path / "surround.wav", music(3000, channels=6).T, RATE_HZ)
    with pytest.raises(AudioError, match="6 channels, expected 1 or 2"):
        probe(AudioSource(tmp_path / "surround.wav"))


def test_blocks_have_the_length_asked_for(tmp_path):
    signal = music(300_001)
    soundfile.write(tmp_path / "a.wav", signal.T, 48_000, subtype="FLOAT")
    blocks = list(open_audio(AudioSource(tmp_path / "a.wav"), RATE_HZ, block_samples=10_000))
    total = round(300_001 * 44_100 / 48_000)
    assert [b.shape[1] for b in blocks] == [10_000] * (total // 10_000) + [total % 10_000]
    assert np.array_equal(np.concatenate(blocks, 1), read_audio(AudioSource(tmp_path / "a.wav"), RATE_HZ))


def test_memory_does_not_grow_with_the_length(tmp_path):
    def peak_bytes(samples: int) -> int:
        with soundfile.SoundFile(tmp_path / f"{samples}.wav", "w", 48_000, 2, "PCM_16") as file:
            for start in range(0, samples, 500_000):
                file.write(music(min(500_000, samples - start), seed=1).T)
        tracemalloc.start()
        for _ in open_audio(AudioSource(tmp_path / f"{samples}.wav"), RATE_HZ, block_samples=2**17):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(500_000)
    assert peak_bytes(4_000_000) < 1.2 * peak_bytes(1_000_000)


def test_missing_and_foreign_files_are_unreadable(tmp_path):
    with pytest.raises(UnreadableAudioError, match=r"gone\.wav: cannot be opened \(No such file"):
        probe(AudioSource(tmp_path / "gone.wav"))
    (tmp_path / "text.mp3").write_text("This is no music. " * 500)
    (tmp_path / "head.wav").write_bytes(b"RIFF\x00\x00")
    for name in ("text.mp3", "head.wav"):
        with pytest.raises(UnreadableAudioError, match="cannot be read as audio"):
            probe(AudioSource(tmp_path / name))


@pytest.mark.parametrize(
    "name", ["Queen: Song.mp3", "http:song.mp3", "file:song.mp3", "subfile,,start,0,end,9,,:song.mp3", "a#b?c%d.mp3"]
)
def test_a_files_name_is_a_name_and_no_protocol(name, tmp_path, monkeypatch):
    make(tmp_path, "mp3", music(40_000)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    source = AudioSource(Path(name))
    assert sum(block.shape[1] for block in decode(source, probe(source))) >= 40_000


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile secret.mp3\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp3\n#EXT-X-ENDLIST\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    ],
    ids=["concat", "hls", "dash"],
)
@pytest.mark.parametrize("name", ["list.mp3", "list.m4a", "list.m3u8"])
def test_a_playlist_opens_no_other_file(text, name, tmp_path, monkeypatch):
    make(tmp_path, "mp3", music(40_000)).rename(tmp_path / "secret.mp3")
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    for source in (AudioSource(Path(name)), AudioSource(tmp_path / name)):
        with pytest.raises(UnreadableAudioError, match="cannot be read as audio"):
            probe(source)


@pytest.mark.parametrize(
    ("kind", "codec", "container"),
    [("mka", "aac", "matroska"), ("webm", "libopus", "webm"), ("aac", "aac", "adts"), ("caf", "alac", "caf"),
     ("wma", "libmp3lame", "asf"), ("ts", "aac", "mpegts"), ("w64", "pcm_f32le", "w64")],
)  # fmt: skip
def test_containers_of_others_are_read(kind, codec, container, tmp_path):
    formats = {"libopus": "flt", "alac": "s16p", "pcm_f32le": "flt"}
    path, signal = tmp_path / f"song.{kind}", music(48_000)
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=48_000, layout="stereo")
        resampler = av.AudioResampler(format=formats.get(codec, "fltp"), layout="stereo", rate=48_000,
                                      frame_size=stream.codec_context.frame_size or 1024)  # fmt: skip
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(signal), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 48_000, 0
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    source = AudioSource(path)
    heard = np.concatenate(list(decode(source, probe(source))), axis=1)
    assert 46_000 <= heard.shape[1] <= 52_000
    assert np.abs(heard).max() > 0.1


def test_empty_files_say_so(tmp_path):
    (tmp_path / "nothing.flac").touch()
    soundfile.write(tmp_path / "header.wav", np.zeros((0, 2)), RATE_HZ)
    for name in ("nothing.flac", "header.wav"):
        with pytest.raises(EmptyAudioError):
            probe(AudioSource(tmp_path / name))


@pytest.mark.parametrize("kind", ["wav", "aiff", "flac", "ogg", "mp3", "m4a"])
def test_a_file_cut_short_is_truncated(tmp_path, kind):
    path = make(tmp_path, kind, music(3 * RATE_HZ))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(TruncatedAudioError, match=f"song.{kind}.*(copy or export it again)"):
        read_audio(AudioSource(path), RATE_HZ)


@pytest.mark.parametrize("kind", ["flac", "mp3"])
def test_damage_in_the_middle_is_noticed(tmp_path, kind):
    path = make(tmp_path, kind, music(3 * RATE_HZ))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(data)
    with pytest.raises(TruncatedAudioError, match="damaged or cut"):
        read_audio(AudioSource(path), RATE_HZ)


def test_a_wav_header_may_leave_its_length_open_but_not_lie(tmp_path):
    signal = music(5000)
    soundfile.write(tmp_path / "a.wav", signal.T, RATE_HZ)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)  # as ffmpeg leaves it when writing to a pipe
    (tmp_path / "a.wav").write_bytes(data)
    assert read_audio(AudioSource(tmp_path / "a.wav"), RATE_HZ).shape == signal.shape
    data[at : at + 4] = struct.pack("<I", 3_000_000_000)
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(TruncatedAudioError, match="3,000,000,000 bytes"):
        probe(AudioSource(tmp_path / "a.wav"))


def test_mp3_without_a_length_in_its_header_is_read_to_its_end(tmp_path):
    """libsndfile gives a fifth of such a file and no error."""
    signal = music(5 * RATE_HZ)
    signal[:, RATE_HZ:] *= 0.001
    path = write_coded(tmp_path / "a.mp3", [signal], "libmp3lame", "mp3", write_xing="0")
    assert not probe(AudioSource(path)).exact
    assert signal.shape[1] <= read_audio(AudioSource(path), RATE_HZ).shape[1] < signal.shape[1] + 4 * 1152


def test_absurd_lengths_are_refused_from_the_header_and_while_reading(tmp_path):
    path = make(tmp_path, "flac", music(2 * RATE_HZ))
    with pytest.raises(AudioTooLongError, match="expected at most"):
        next(open_audio(AudioSource(path), RATE_HZ, max_s=1.0))
    data = bytearray(path.read_bytes())
    # STREAMINFO's last 36 bits before the MD5 sum: a FLAC header that claims 2^35 samples, nine days.
    data[21] |= 0x08
    path.write_bytes(data)
    with pytest.raises(AudioTooLongError, match=r"216\.\d hours, expected at most 24"):
        read_audio(AudioSource(path), RATE_HZ)
    data[21] &= 0xF0
    data[22:26] = bytes(4)  # length unknown: noticed while decoding
    path.write_bytes(data)
    assert probe(AudioSource(path)).samples is None
    assert read_audio(AudioSource(path), RATE_HZ).shape[1] == 2 * RATE_HZ
    with pytest.raises(AudioTooLongError):
        list(open_audio(AudioSource(path), RATE_HZ, max_s=1.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused_with_their_time(tmp_path, bad):
    signal = music(2 * RATE_HZ)
    signal[1, RATE_HZ + 441] = bad
    soundfile.write(tmp_path / "a.wav", signal.T, RATE_HZ, subtype="FLOAT")
    with pytest.raises(NonFiniteAudioError, match=r"NaN or infinite samples at 1\.010 s"):
        read_audio(AudioSource(tmp_path / "a.wav"), RATE_HZ)


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "FLOAT"), ("a.flac", "PCM_24"), ("a.wav", "PCM_16")])
def test_what_is_written_reads_back(tmp_path, name, subtype):
    signal = music(10_000)
    written = write_audio(tmp_path / "new" / name, [signal[:, :3000], signal[:, 3000:]], 48_000, subtype)
    assert written == 10_000
    assert soundfile.info(tmp_path / "new" / name).samplerate == 48_000
    found = read_audio(AudioSource(tmp_path / "new" / name), 48_000)
    assert np.abs(found - signal).max() <= {"FLOAT": 0, "PCM_24": 2.0**-23, "PCM_16": 2.0**-15}[subtype]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.wav"
    target.write_bytes(b"old")

    def blocks():
        yield music(1000)
        raise RuntimeError("the producer failed")

    with pytest.raises(RuntimeError, match="the producer failed"):
        write_audio(target, blocks(), RATE_HZ)
    with pytest.raises(NonFiniteAudioError):
        write_audio(target, [np.full((2, 5), np.nan, np.float32)], RATE_HZ)
    with pytest.raises(AudioWriteError, match="PCM_99"):
        write_audio(target, [music(10)], RATE_HZ, "PCM_99")
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
    assert target.read_bytes() == b"old"


FILL_DISK = """
import pathlib, resource, signal, sys
import numpy as np
from dataprep.audio.writing import write_audio
from dataprep.errors import AudioWriteError

noise = np.random.default_rng(0).uniform(-1, 1, (2, 60_000)).astype(np.float32)
folder = pathlib.Path(sys.argv[1])
kinds = (("a.wav", "PCM_16"), ("a.flac", "PCM_16"), ("a.ogg", "VORBIS"))
sizes = []
for name, subtype in kinds:
    write_audio(folder / name, [noise], 44_100, subtype)
    sizes.append((folder / name).stat().st_size)
    (folder / name).unlink()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for (name, subtype), size in reversed(list(zip(kinds, sizes))):
    for limit in (size - 1, size // 2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            write_audio(folder / name, [noise], 44_100, subtype)
        except AudioWriteError as error:
            print(error)
"""


def test_no_space_left_is_a_failure_that_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the full disk; libsndfile does not report it for a file's last bytes."""
    done = subprocess.run([sys.executable, "-c", FILL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        str(tmp_path / name) for name in ("a.ogg", "a.flac", "a.wav") for _ in range(2)
    ]
    assert all("could not be written" in line and "MB are free" in line for line in lines)
    assert list(tmp_path.iterdir()) == []
