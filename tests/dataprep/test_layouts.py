"""Which file is which stem, for the names and layouts of others: a case a line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataprep.audio.files import open_audio
from dataprep.audio.layouts import content
from dataprep.audio.layouts.words import named, titled
from dataprep.audio.tracks import find_tracks
from dataprep.errors import DataError
from tests.dataprep.data import sound, write

WORDS = {
    "vocals": ["vocals", "Vocal", "lead_vocals", "backing_vocals", "leadVocals", "LEADVOCALS", "vox", "Lead Vox 2",
               "Acapella", "a cappella", "A-Capella", "01 - vocals", "Vocals_2", "BGV", "Backing Vox L", "vocals (dry)",
               "voice", "choir", "vocal fx", "Vocals.Lead", "Gesang", "Stimme", "voix", "chœur", "voz", "voces", "voce",
               "wokal", "вокал", "BV1", "BV_L", "LV", "lv 2", "Chorus", "Harmony1", "Harmonies L",
               "ad libs", "Ad-Lib 2", "adlibs", "Sängerin", "chanteuse", "ボーカル", "人声", "主唱", "보컬", "गायन"],
    "instrumental": ["instrumental", "no vocals", "no_vocals", "NoVocals", "no-vocals", "without vocals", "off vocal",
                     "vocals removed", "karaoke", "Karaoke Version", "minus", "minus one", "minus vocals",
                     "accompaniment", "Backing Track", "instrumental mix",
                     "ohne Gesang", "минус", "カラオケ", "伴奏", "반주"],
    "mixture": ["mixture", "mix", "Full Mix", "MASTER", "mixdown", "Original Mix", "микс"],
    "part": ["drums", "Kick In", "bass DI", "Lead Synth", "E-Guitar 2", "other", "Strings", "drum mix", "percussion",
             "Schlagzeug", "guitarra", "барабаны", "ドラム", "other_keys", "bowed_strings",
             "Chorus Guitar", "Harmony Guitar"],
    "unclear": ["no_drums", "no bass", "vocal mix", "with vocals", "Vox Organ", "vocals and guitar",
                "vocals + instrumental", "no lead vocals", "no chorus", "no BVs"],
    None: ["Kazoo", "song", "take 3", "Full Moon", "Mixed Feelings", "01", "Sinfonia", "Nothing"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in WORDS.items() for name in names])
def test_words_say_the_stem(kind, name):
    assert named(name).kind == kind


@pytest.mark.parametrize(
    ("name", "title", "kind"),
    [
        ("song.vocals", "song", "vocals"), ("a.vocals", "a", "vocals"),
        ("my.song.instrumental", "my.song", "instrumental"),
        ("song (Vocals)", "song", "vocals"), ("1_song_(Vocals)", "1 song", "vocals"),
        ("1_song_(Instrumental)", "1 song", "instrumental"), ("Back in Black (Vocals)", "Back in Black", "vocals"),
        ("song_(Vocals)_UVR-MDX-NET-Inst_HQ_3", "song UVR-MDX-NET-Inst HQ 3", "vocals"),
        ("song_no_vocals", "song", "instrumental"), ("song_vocals", "song", "vocals"),
        ("A - B - Lead Vox", "A - B", "vocals"), ("Vocals - song", "song", "vocals"),
        ("Drums.vocals", "Drums", "vocals"),
        ("song [karaoke]", "song", "instrumental"), ("vocals", "", "vocals"), ("lead vocals", "", "vocals"),
        ("歌曲 (人声)", "歌曲", "vocals"), ("Sweet Voice", "Sweet", "vocals"),
    ],
)  # fmt: skip
def test_a_name_is_a_title_and_a_stem(name, title, kind):
    found = titled(name)
    assert found is not None
    assert (found.title, found.stem.kind) == (title, kind)


@given(st.text(max_size=60))
def test_any_name_can_be_read(name):
    assert named(name).kind in WORDS
    assert titled(name) is None or titled(name).stem.kind in WORDS


def found(folder: Path, *names: str, layout: str = "auto") -> dict[str, dict[str, list[str]]]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return {
        track.id: {
            role: [str(source.path.relative_to(folder)) for source in sources] for role, sources in track.stems.items()
        }
        for track in find_tracks([folder], layout).tracks
    }


def song(vocals: list[str] | None = None, instrumental: list[str] | None = None, mixture: list[str] | None = None):
    given_ = {"vocals": vocals, "instrumental": instrumental, "mixture": mixture}
    return {role: names for role, names in given_.items() if names}


def test_instruments_of_medleydb_are_known_by_its_metadata(tmp_path):
    (tmp_path / "db" / "A_S").mkdir(parents=True)
    instruments = ["female singer", "drum set", "[male rapper, vocalists]", "Main System"]
    stems = "".join(
        f"  S0{k}:\n    filename: A_S_STEM_0{k}.wav\n    instrument: {instrument}\n"
        for k, instrument in enumerate(instruments, start=1)
    )
    (tmp_path / "db" / "A_S" / "A_S_METADATA.yaml").write_text(f"artist: A\nstems:\n{stems}")
    names = ["A_S/A_S_MIX.wav", *(f"A_S/A_S_STEMS/A_S_STEM_0{k}.wav" for k in (1, 2, 3))]
    assert found(tmp_path / "db", *names) == {"A_S-A_S_STEMS": song([names[1], names[3]], [names[2]], [names[0]])}
    (only,) = found(tmp_path / "db", "A_S/A_S_STEMS/A_S_STEM_04.wav").values()
    assert not any("STEM_04" in name for names in only.values() for name in names), "all players are on it"


UUIDS = [f"{k:08x}-0000-4000-8000-000000000000" for k in range(4)]
LAYOUTS = {
    "lead and backing": (
        ["S/lead_vocals.wav", "S/backing_vocals.wav", "S/drums.wav", "S/bass.wav"],
        {"S": song(["S/backing_vocals.wav", "S/lead_vocals.wav"], ["S/bass.wav", "S/drums.wav"])},
    ),
    "the mix beside its stems": (
        ["S/vox.wav", "S/drums.wav", "S/Full Mix.wav"], {"S": song(["S/vox.wav"], ["S/drums.wav"], ["S/Full Mix.wav"])}
    ),
    "another language": (["S/Gesang.wav", "S/Klavier.wav"], {"S": song(["S/Gesang.wav"], ["S/Klavier.wav"])}),
    "the title in every name": (
        ["S/A - B - Lead Vox.wav", "S/A - B - Kick.wav", "S/A - B.wav"],
        {"S-A_-_B": song(["S/A - B - Lead Vox.wav"], ["S/A - B - Kick.wav"], ["S/A - B.wav"])},
    ),
    "a folder a stem": (
        ["vocals/a.wav", "vocals/b.wav", "other/a.flac", "other/b.wav", "drums/a.wav"],
        {"a": song(["vocals/a.wav"], ["drums/a.wav", "other/a.flac"]), "b": song(["vocals/b.wav"], ["other/b.wav"])},
    ),
    "a folder a stem, names with the stem": (
        ["vocals/a_vocals.wav", "other/a_other.wav"], {"a": song(["vocals/a_vocals.wav"], ["other/a_other.wav"])}
    ),
    "a folder a stem, in splits": (
        ["train/vocals/a.wav", "train/other/a.wav", "test/vocals/a.wav", "test/other/a.wav"],
        {f"{s}-a": song([f"{s}/vocals/a.wav"], [f"{s}/other/a.wav"]) for s in ("test", "train")},
    ),
    "MoisesDB": (
        [f"S1/vocals/{UUIDS[0]}.wav", f"S1/drums/{UUIDS[1]}.wav", f"S1/drums/{UUIDS[2]}.wav",
         f"S1/other_keys/{UUIDS[3]}.wav", f"S2/vocals/{UUIDS[0]}.wav", f"S2/bass/{UUIDS[1]}.wav"],
        {"S1": song([f"S1/vocals/{UUIDS[0]}.wav"], [f"S1/drums/{UUIDS[1]}.wav", f"S1/drums/{UUIDS[2]}.wav",
                                                    f"S1/other_keys/{UUIDS[3]}.wav"]),
         "S2": song([f"S2/vocals/{UUIDS[0]}.wav"], [f"S2/bass/{UUIDS[1]}.wav"])},
    ),
    "songs with a folder a stem whose files are called alike": (
        [f"{s}/{f}/{n}.wav" for s in ("A", "B") for f in ("vocals", "guitar") for n in ("1", "lead")],
        {s: song([f"{s}/vocals/1.wav", f"{s}/vocals/lead.wav"], [f"{s}/guitar/1.wav", f"{s}/guitar/lead.wav"])
         for s in "AB"},
    ),
    "a folder a stem, further down": (
        ["deep/db/Vocals/1.wav", "deep/db/Other/1.wav", "deep/db/Vocals/2.wav", "deep/db/Other/2.wav"],
        {f"deep-db-{k}": song([f"deep/db/Vocals/{k}.wav"], [f"deep/db/Other/{k}.wav"]) for k in (1, 2)},
    ),
    "genres with equal names": (
        ["L/Music/Intro.mp3", "L/Other/Intro.mp3"],
        {f"L-{f}-Intro": song(mixture=[f"L/{f}/Intro.mp3"]) for f in ("Music", "Other")},
    ),
    "one song of MoisesDB": (
        [f"vocals/{UUIDS[0]}.wav", f"bass/{UUIDS[1]}.wav"],
        {"source": song([f"vocals/{UUIDS[0]}.wav"], [f"bass/{UUIDS[1]}.wav"])},
    ),
    "what vr separate wrote": (
        ["song.vocals.wav", "song.instrumental.wav"],
        {"source-song": song(["song.vocals.wav"], ["song.instrumental.wav"])},
    ),
    "what vr separate wrote, beside the songs": (
        ["a.mp3", "a.vocals.flac", "a.instrumental.flac", "b.mp3", "b.vocals.flac", "b.instrumental.flac"],
        {f"source-{s}": song([f"{s}.vocals.flac"], [f"{s}.instrumental.flac"]) for s in "ab"},
    ),
    "UVR": (
        ["1_x_(Vocals).wav", "1_x_(Instrumental).wav", "2_y_(Vocals).wav", "2_y_(Instrumental).wav"],
        {f"source-{s}": song([f"{s}_(Vocals).wav"], [f"{s}_(Instrumental).wav"]) for s in ("1_x", "2_y")},
    ),
    "demucs": (
        ["x_vocals.wav", "x_no_vocals.wav", "y_vocals.wav", "y_no_vocals.wav"],
        {f"source-{s}": song([f"{s}_vocals.wav"], [f"{s}_no_vocals.wav"]) for s in "xy"},
    ),
    "MUSDB18-HQ": (
        [f"{f}/{stem}.wav" for f in ("train/A B", "test/C D")
         for stem in ("bass", "drums", "mixture", "other", "vocals")],
        {id: song([f"{f}/vocals.wav"], [f"{f}/{s}.wav" for s in ("bass", "drums", "other")], [f"{f}/mixture.wav"])
         for id, f in (("train-A_B", "train/A B"), ("test-C_D", "test/C D"))},
    ),
    "DSD100": (
        [f"{f}/{s}/{stem}.wav" for s in ("Dev/051 - A", "Test/001 - B")
         for f, stems in (("Mixtures", ["mixture"]), ("Sources", ["bass", "drums", "vocals"])) for stem in stems],
        {id: song([f"Sources/{s}/vocals.wav"], [f"Sources/{s}/bass.wav", f"Sources/{s}/drums.wav"],
                  [f"Mixtures/{s}/mixture.wav"])
         for id, s in (("Dev-051_-_A", "Dev/051 - A"), ("Test-001_-_B", "Test/001 - B"))},
    ),
    "MedleyDB with names": (
        ["A_S/A_S_MIX.wav", "A_S/A_S_STEMS/vocals.wav", "A_S/A_S_STEMS/drums.wav"],
        {"A_S-A_S_STEMS": song(["A_S/A_S_STEMS/vocals.wav"], ["A_S/A_S_STEMS/drums.wav"], ["A_S/A_S_MIX.wav"])},
    ),
    "numbers in front": (
        ["1_vocals.wav", "1_other.wav", "2_vocals.wav", "2_other.wav"],
        {f"source-{k}": song([f"{k}_vocals.wav"], [f"{k}_other.wav"]) for k in (1, 2)},
    ),
    "numbers of takes": (
        ["S/01 - vocals.wav", "S/02 - drums.wav", "S/03 - bass.wav"],
        {"S": song(["S/01 - vocals.wav"], ["S/02 - drums.wav", "S/03 - bass.wav"])},
    ),
    "an album with such titles": (
        ["A/The Voice.mp3", "A/Sweet Voice.mp3", "A/Karaoke.mp3", "A/Bass.mp3",
         "A/1.mp3", "A/2.mp3", "A/3.mp3", "A/4.mp3"],
        {f"A-{n}": song(mixture=[f"A/{m}.mp3"]) for n, m in [("The_Voice", "The Voice"), ("Sweet_Voice", "Sweet Voice"),
         *((n, n) for n in ("Karaoke", "Bass", "1", "2", "3", "4"))]},
    ),
    "songs that are called Harmony and Chorus": (
        ["A/Harmony.mp3", "A/Drums.mp3", "A/Chorus.mp3", "A/Love.mp3", "A/Hate.mp3", "B/Harmony.mp3", "B/Night.mp3",
         "C/Anna - Harmony.mp3"],
        {f"{n.replace(' ', '_').replace('/', '-')}": song(mixture=[f"{n}.mp3"])
         for n in ("A/Harmony", "A/Drums", "A/Chorus", "A/Love", "A/Hate", "B/Harmony", "B/Night", "C/Anna - Harmony")},
    ),
    "a choir's stems": (
        ["S/LV.wav", "S/BV1.wav", "S/Harmony1.wav", "S/Drums.wav"],
        {"S": song(["S/BV1.wav", "S/Harmony1.wav", "S/LV.wav"], ["S/Drums.wav"])},
    ),
    "genres": (["L/Karaoke/a.mp3", "L/Other/b.mp3"], {"L-Karaoke-a": song(mixture=["L/Karaoke/a.mp3"]),
                                                     "L-Other-b": song(mixture=["L/Other/b.mp3"])}),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_of_others_are_understood(tmp_path, case):
    names, wanted = LAYOUTS[case]
    assert found(tmp_path / "source", *names) == wanted


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["S/vocals.wav", "S/lead_vocals.wav", "S/drums.wav"], "may be the sum of lead_vocals.wav"),
        (["S/vox.wav", "S/Acapella.wav", "S/drums.wav"], "two files for the stem vocals"),
        (["S/vocals.wav", "S/no_drums.wav"], "no_drums.wav: by the name more than one kind of stem"),
        (["vocals/a.wav", "other/x.wav"], "--layout flat"),
        (["a.vocals.wav", "b.vocals.wav"], "--layout flat"),
        (["a.vocals.wav", "a.instrumental.wav", *(f"{k}.mp3" for k in range(9))], "--layout flat"),
        (["A_S/A_S_MIX.wav", "A_S/A_S_STEMS/A_S_STEM_01.wav", "A_S/A_S_STEMS/A_S_STEM_02.wav"], "--layout flat"),
        ([f"S/{n}.wav" for n in ("LeadVox", "Kick", "808", "Juno", "OB6", "Rhythm")], "--layout flat"),
        (
            [*(f"A/{k}.mp3" for k in range(20)), "S/LeadVox.wav", "S/Kick.wav", *(f"S/{n}.wav" for n in "abcd")],
            r"stems by their names \(S/Kick.wav",
        ),
        (["S/vocals.wav", *(f"S/take {n}.wav" for n in "abc")], r"vocals\.wav: called after a stem"),
        (["vocals_1.wav", "vocals_2.wav", "guitar_1.wav", "guitar_2.wav"], "may be songs or takes"),
    ],
)
def test_what_is_not_clear_is_refused_and_says_what_to_do(tmp_path, names, words):
    with pytest.raises(DataError, match=words):
        found(tmp_path, *names)
    assert len(found(tmp_path, layout="flat")) == len(names)


@pytest.mark.parametrize("name", ["Vocals", "Mix", "Instrumental"])
def test_one_song_that_is_called_after_a_stem_makes_no_stems_of_a_collection(tmp_path, name):
    names = [*(f"A/{k}.mp3" for k in range(5)), f"A/{name}.mp3", "B/1.mp3", "B/2.mp3", "c.mp3"]
    assert list(found(tmp_path, *names)) == ["B-1", "B-2", "c"]
    ((where, why),) = find_tracks([tmp_path]).problems
    assert where == tmp_path / "A"
    assert f"{name}.mp3: called after a stem" in why
    assert len(found(tmp_path, layout="flat")) == len(names)
    found(tmp_path, "S/vocals.wav", "S/drums.wav", layout="flat")
    stems = find_tracks([tmp_path])
    assert [track.id for track in stems.tracks] == ["S"]
    assert (where, why) in stems.problems, "an album is no song, whatever lies beside it"
    (tmp_path / "many").mkdir()
    assert len(found(tmp_path / "many", f"{name}.mp3", *(f"{k}.mp3" for k in range(150)))) == 151


VOICE, CHOIR, BAND, KAZOO = (sound(30_000, seed) for seed in (1, 4, 2, 77))


@pytest.mark.parametrize(
    ("stems", "wanted", "note"),
    [
        ({"vocals": VOICE, "drums": BAND, "Song": VOICE + BAND}, {"mixture": ["Song"]}, "by its sound"),
        ({"vocals": VOICE, "drums": BAND, "Song": 0.8 * (VOICE + BAND + KAZOO)}, {"mixture": ["Song"]}, "by its sound"),
        ({"vocals": VOICE, "Song": VOICE + BAND}, {"mixture": ["Song"]}, "by its sound"),
        ({"vocals": VOICE, "drums": BAND, "Kazoo": KAZOO}, {"instrumental": ["Kazoo", "drums"]}, "as an instrument"),
        ({"vocals": VOICE + CHOIR, "lead_vocals": VOICE, "backing_vocals": CHOIR, "drums": BAND},
         {"vocals": ["vocals"]}, "is their sum"),
        ({"vocals": VOICE, "backing_vocals": CHOIR, "drums": BAND},
         {"vocals": ["backing_vocals", "vocals"]}, "vocals summed"),
        ({"Lead Vox": VOICE, "BV1": CHOIR, "drums": BAND}, {"vocals": ["BV1", "Lead Vox"]}, "vocals summed"),
        ({"Instrumental": BAND, "Vocals": VOICE, "Mix": VOICE + BAND, "Master": 0.9 * (VOICE + BAND)},
         {"instrumental": ["Instrumental"], "vocals": ["Vocals"]}, "more than one is the mixture by its name"),
        ({"Instrumental": BAND, "Mix": VOICE + BAND, "Anna": VOICE}, {"mixture": ["Mix"]}, "not used beside"),
    ],
)  # fmt: skip
def test_the_sound_tells_a_mixture_from_a_stem(tmp_path, stems, wanted, note):
    for name, signal in stems.items():
        write(tmp_path / "S" / f"{name}.wav", signal)
    (track,) = find_tracks([tmp_path]).tracks
    for role, names in wanted.items():
        assert sorted(source.path.stem for source in track.stems[role]) == sorted(names)
    assert note in " ".join(track.notes)
    assert ("mixture" in track.stems) == ("mixture" in wanted)


@pytest.mark.parametrize(
    "stems",
    [
        {"vocals": VOICE, "drums": BAND, "Anna": 0.2 * VOICE + KAZOO},
        {"vocals": VOICE + 0.3 * CHOIR, "lead_vocals": VOICE, "drums": BAND},
        {"drums": BAND, "bass": KAZOO, "Song": BAND + KAZOO + VOICE},
        {"drums": BAND, "bass": KAZOO, "Anna": VOICE},
        {"mix": BAND + VOICE, "drums": BAND, "source-02": VOICE},
        {"Instrumental": BAND, "Anna": VOICE},
        {"vocals": 0 * VOICE, "drums": BAND, "Anna": VOICE},
    ],
)
def test_a_sound_that_holds_some_of_the_others_is_asked_about(tmp_path, stems):
    for name, signal in stems.items():
        write(tmp_path / "S" / f"{name}.wav", signal)
    with pytest.raises(DataError, match="rename it|move the others"):
        find_tracks([tmp_path])


def test_a_song_beside_its_instrumental_is_the_mixture_if_it_holds_it(tmp_path):
    for name, signal in (("Song", VOICE + BAND), ("Song (Instrumental)", BAND)):
        write(tmp_path / f"{name}.wav", signal)
    (track,) = find_tracks([tmp_path]).tracks
    assert {role: [s.path.name for s in sources] for role, sources in track.stems.items()} == song(
        None, ["Song (Instrumental).wav"], ["Song.wav"]
    )
    write(tmp_path / "Song.wav", VOICE)
    with pytest.raises(DataError, match=r"Song\.wav: by its sound it does not hold Song \(Instrumental\)"):
        find_tracks([tmp_path])


@pytest.mark.parametrize("beside", [(), ("mixtures/x.wav", "instruments/x.wav")], ids=["alone", "beside pairs"])
def test_each_file_of_an_unclear_song_is_read_once(tmp_path, monkeypatch, beside):
    opened = []
    for name in beside:  # a second layout; the one that uses more files is chosen
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()

    def counted(source, *rest):
        opened.append(source.path.stem)
        return open_audio(source, *rest)

    monkeypatch.setattr(content, "open_audio", counted)
    for number in range(5):
        write(tmp_path / "S" / f"Kazoo {'abcde'[number]}.wav", sound(30_000, 30 + number))
    for name, signal in (("vocals", VOICE), ("drums", BAND), ("bass", BAND), ("keys", BAND), ("pad", BAND)):
        write(tmp_path / "S" / f"{name}.wav", signal)
    told: list[str] = []
    with content.listening_told(lambda path: told.append(path.stem)):
        find_tracks([tmp_path])
    assert sorted(opened) == sorted(told) == [*(f"Kazoo {letter}" for letter in "abcde"), "vocals"]
    find_tracks([tmp_path])
    assert len(told) == 6


def test_a_published_split_is_known_by_two_folders(tmp_path):
    found(tmp_path / "db", *(f"{f}/vocals.wav" for f in ("train/A", "test/B", "valid/C", "more/D")))
    assert {t.id: t.split for t in find_tracks([tmp_path / "db"]).tracks} == {
        "train-A": "train", "test-B": "test", "valid-C": "valid", "more-D": None
    }  # fmt: skip
    for half, name in (("Mixtures", "mixture"), ("Sources", "vocals")):
        found(tmp_path / "DSD100", *(f"{half}/{s}/{name}.wav" for s in ("Dev/A", "Test/B")))
    assert {t.id: t.split for t in find_tracks([tmp_path / "DSD100"]).tracks} == {"Dev-A": "train", "Test-B": "test"}
    found(tmp_path / "home", *(f"db/{f}/vocals.wav" for f in ("train/A", "test/B")), "mine/test/C/vocals.wav")
    assert {t.id: t.split for t in find_tracks([tmp_path / "home"]).tracks} == {
        "db-train-A": "train", "db-test-B": "test", "mine-test-C": None
    }  # fmt: skip
    apart = [tmp_path / "db" / name for name in ("train", "test")]
    assert [(t.id, t.split) for t in find_tracks(apart).tracks] == [("A", "train"), ("B", "test")]
    assert [t.split for t in find_tracks(apart[1:]).tracks] == [None]
    found(tmp_path / "album", "test/vocals.wav", "more/vocals.wav")
    assert {t.split for t in find_tracks([tmp_path / "album"]).tracks} == {None}


def test_files_that_are_named_one_by_one_are_stems_too(tmp_path):
    names = ["a.vocals.wav", "a.instrumental.wav", "b.mp3", "c.vocals.wav"]
    found(tmp_path, *names, layout="flat")
    tracks = find_tracks([tmp_path / name for name in names]).tracks
    assert {t.id.removeprefix(f"{tmp_path.name}-"): {r: len(s) for r, s in t.stems.items()} for t in tracks} == {
        "a": {"vocals": 1, "instrumental": 1}, "b": {"mixture": 1}, "c.vocals": {"mixture": 1}
    }  # fmt: skip
    assert len(find_tracks([tmp_path / name for name in names], "flat").tracks) == 4
    found(tmp_path, "d (Acapella).wav", "d (Vocals).wav", layout="flat")
    two = [tmp_path / name for name in ("d (Acapella).wav", "d (Vocals).wav", "b.mp3")]
    assert [path for path, _ in find_tracks(two).problems] == two[:2]
    with pytest.raises(DataError, match="two files for the stem vocals"):
        find_tracks(two[:2])


def test_each_song_that_is_named_file_by_file_has_its_own_reason(tmp_path):
    groups = {
        "a": ["a.vocals.wav", "a.instrumental.wav", "a.drums.wav", "a.wav"],
        "b": ["b (Acapella).wav", "b (Vocals).wav", "b.drums.wav"],
        "c": ["c.vocals.wav", "c.no_drums.wav"],
        "d": ["d.vocals.wav", "d.instrumental.wav"],
    }
    found(tmp_path, *(name for names in groups.values() for name in names), layout="flat")
    seen = find_tracks([tmp_path / name for names in groups.values() for name in names])
    assert [track.id[-2:] for track in seen.tracks] == ["-a", "-d"]
    assert "not used beside a.instrumental.wav: a.drums.wav, a.wav" in seen.tracks[0].notes
    why = {path.name: reason for path, reason in seen.problems}
    assert sorted(why) == sorted([*groups["b"], *groups["c"]])
    assert {"two files for the stem vocals" in why[name] for name in groups["b"]} == {True}
    assert {"c.no_drums.wav: by the name more than one kind" in why[name] for name in groups["c"]} == {True}


def test_files_of_one_song_are_kin(tmp_path):
    found(tmp_path, "x/01 Song.mp3", "x/09 Song (Instrumental).mp3", "x/Else.mp3", "x/More.mp3", "y/Song.mp3")
    kin = {track.id: track.kin for track in find_tracks([tmp_path]).tracks}
    assert kin["x-01_Song"] == kin["x-09_Song_Instrumental"]
    assert len(set(kin.values())) == 4
    (tmp_path / "two").mkdir()
    found(tmp_path / "two", "vocals/a.wav", "instrumentals/a.wav", "instrumentals/b.wav")
    assert len({track.kin for track in find_tracks([tmp_path / "two"]).tracks}) == 2
