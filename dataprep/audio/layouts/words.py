"""What the words of a name say about the stem in a file. Pure functions; a new word is one entry of a table.

A name is cut into words at spaces, signs, digits and camel case. Words of scripts that are written without spaces are
looked for inside a word.
"""

import re
import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

Kind = Literal["vocals", "instrumental", "mixture", "part", "unclear"]
"""part: an instrument, or some of the instruments. unclear: it holds stems of more than one kind (`no drums`)."""


def _table(text: str) -> frozenset[str]:
    return frozenset(unicodedata.normalize("NFC", text).split())


VOCALS = _table("""
    vocals vocal vox voxes voc vocs voice voices singer singers singing sung choir choirs acapella acapellas acappella
    accapella acapela cappella capella rap rapper adlib adlibs bgv bgvs bvox bv bvs
    vocalist vocalists
    gesang stimme stimmen sänger sängerin sängerinnen chor voix chanteur chanteuse cantante cantantes cantor cantora
    chant choeur choeurs chœur voz voces canto coro coros voce voci vozes vocais vokal
    vokale vokaler wokal wokale glos głos zang zanger zangeres sång sang sångare laulu zpěv ének
    вокал голос голоса хор бэк певец певица
""")
INSTRUMENTAL = _table("""
    instrumental instrumentals instruments instrument instr inst accompaniment accompaniments karaoke playback bgm
    minus minusone instrumentale strumentale strumentali instrumentalna instrumentalny begleitung
    accompagnement acompañamiento instrumentaal инструментал инструменталка минус минусовка караоке
""")
MIXTURE = _table("""
    mixture mix mixdown fullmix master mastered full original complete mixed
    gesamt gesamtmix completo complet микс мастер
""")
PARTS = _table("""
    drums drum drumkit kick snare hihat hihats hat hats cymbal cymbals tom toms overhead overheads percussion perc
    percs shaker tambourine conga congas bongo bongos clap claps beat beats loop loops
    bass sub contrabass guitar guitars gtr gtrs gt egtr agtr banjo mandolin ukulele
    piano pianos keys key keyboard keyboards synth synths synthesizer pad pads organ rhodes wurli clavinet celesta
    strings string violin violins viola cello celli orchestra brass trumpet trumpets trombone sax saxophone horn horns
    flute clarinet oboe bassoon winds wind woodwind woodwinds harp harmonica accordion bells bell marimba vibraphone
    arp arpeggio fx sfx effects noise other others rest plucked bowed music
    schlagzeug gitarre klavier streicher batterie basse guitare claviers autres batería bateria bajo guitarra teclado
    teclados otros outros batteria basso chitarra tastiere altro baixo ударные барабаны бас гитара клавиши
""")
NOT = frozenset({"no", "non", "not", "without", "wo", "minus", "ohne", "sans", "sin", "senza", "sem", "bez", "zonder",
                 "без"})  # fmt: skip
OFF = frozenset({"off", "less", "free", "removed", "out", "muted", "cut"})
"""Behind vocals: `off vocal`, `vocals removed`."""
QUALIFIERS = _table("""
    lead main leads back backing background backup bg harmony harmonies double doubles dbl male female man woman dry
    wet high low mid left right l r upper lower top bottom solo
    acoustic acoustics electric clean dist distorted di amp mic room oh in close ambient ambience reverb verb wide
""")
_SUNG = _table("""
    chorus choruses harmony harmonies harm harms lv lvs refrain refrains
""")
"""Vocals where the name says nothing else: there is chorus on a guitar, and a guitar may play the harmony."""
_SOME_VOCALS = _SUNG | _table("""
    choir choirs chor chœur choeur choeurs coro coros хор rap rapper adlib adlibs bgv bgvs bvox bv bvs бэк
""")
NEUTRAL = _table("""
    stem stems track tracks audio file stereo mono final bounce bounced export exported master mastered version
    mix wav flac mp3 take edit print only with
""")
"""Say nothing of the stem themselves."""
_OF_VOCALS = frozenset({"fx", "sfx", "effects", "other", "others", "rest", "loop", "loops", "noise"})
"""`vocal fx`, `other vocals`: vocals all the same."""
_WITH_VOCALS = frozenset({"mix", "mixdown", "mixed", "version", "original", "full", "master", "with"})
"""`vocal mix`, `with vocals`: the vocals, or the song."""
_INSIDE: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("instrumental", ("オフボーカル", "カラオケ", "インスト", "伴奏", "无人声", "無人聲", "반주", "악기")),
    ("vocals", ("ボーカル", "ヴォーカル", "コーラス", "アカペラ", "歌声", "人声", "人聲", "主唱", "和声", "和聲", 
                "清唱", "보컬", "목소리", "गायन", "आवाज", "குரல்", "เสียงร้อง", "কণ্ঠ")),
    ("part", ("ドラム", "ベース", "ギター", "ピアノ", "鼓", "贝斯", "貝斯", "吉他", "钢琴", "鋼琴",
              "드럼", "베이스", "기타")),
)  # fmt: skip
_JOINED = frozenset({"lead", "back", "backing", "background", "main", "bg", "male", "female", "harmony", "double", "no",
                     "non", "without"})  # fmt: skip


@dataclass(frozen=True)
class Named:
    """What a name says."""

    kind: Kind | None
    """None where no word in it is known."""
    whole: bool
    """Every word of it is about stems: nothing of a song's title is in it."""
    qualified: bool
    """It says which one of its kind it is: `lead vocals`, `vocals 2`."""
    loose: bool = False
    """Songs are called by such words too, and these alone: `Harmony`, `Chorus`."""


def words(name: str) -> tuple[str, ...]:
    """Words of a name in lower case; a number is a word."""
    text = unicodedata.normalize("NFC", name)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)  # leadVocals
    text = re.sub(r"(?i)\b(a[ _-](?=c+ap+el+as?\b)|ad[ _-](?=libs?\b|libs?\d))", lambda cut: cut[0][:-1], text)
    spaced = ""
    for char in text:
        kind = (
            "digit" if char.isdecimal() else "letter" if char.isalpha() or unicodedata.category(char)[0] == "M" else ""
        )
        if not kind or (spaced and spaced[-1] != " " and spaced[-1].isdecimal() != (kind == "digit")):
            spaced += " "
        spaced += char if kind else ""
    return tuple(part for word in spaced.casefold().split() for part in _parted(word))


def _parted(word: str) -> tuple[str, ...]:
    """`leadvocals` as two words."""
    for first in _JOINED:
        if word.startswith(first) and word[len(first) :] in VOCALS:
            return first, word[len(first) :]
    return (word,)


@lru_cache(maxsize=2**14)
def named(name: str) -> Named:
    """What a name, or a part of one, says about the stem in a file."""
    found = words(name)
    kinds = {kind for kind, known in _KINDS if not known.isdisjoint(found)}
    loose = not kinds and not _SUNG.isdisjoint(found)
    if loose:
        kinds = {"vocals"}
    known = _KNOWN | {"one"} if "minus" in found else _KNOWN
    rest = [word for word in found if word not in known and not word.isdecimal()]
    for kind, terms in _INSIDE:
        for index, word in enumerate(rest):
            cut = word
            for term in terms:
                cut = cut.replace(term, "")
            if cut != word:
                kinds.add(kind)
            rest[index] = cut
    whole = not any(rest)
    qualified = any(word in QUALIFIERS | _SOME_VOCALS or word.isdecimal() for word in found)
    return Named(_kind(found, kinds, whole), whole, qualified, loose)


def _kind(found: tuple[str, ...], kinds: set[Kind], whole: bool) -> Kind | None:
    absent = _absent(found)
    if absent == "vocals":
        return "part" if "part" in kinds else "instrumental"
    if absent is not None:
        return "unclear"
    if "instrumental" in kinds or _is_backing_track(found):
        return "unclear" if "vocals" in kinds else "instrumental"
    if "vocals" in kinds:
        beside = [word for word in found if (word in PARTS and word not in _OF_VOCALS) or word in _WITH_VOCALS]
        return "unclear" if beside else "vocals"
    if "part" in kinds:
        return "part"
    return "mixture" if whole and "mixture" in kinds else None


def _absent(found: tuple[str, ...]) -> Kind | None:
    """What a name says is not in the file: `no vocals`, `off vocal`, `no drums`."""
    for index, word in enumerate(found):
        before, behind = found[index - 1] if index else "", found[index + 1] if index + 1 < len(found) else ""
        if word in _SOME_VOCALS and (before in NOT | OFF or behind in OFF):
            return "part"
        if word in VOCALS and (before in NOT | OFF or behind in OFF):
            return "vocals"
        if (word in PARTS | QUALIFIERS) and before in NOT:
            return "part"
    return None


def _is_backing_track(found: tuple[str, ...]) -> bool:
    return any(one == "backing" and other in ("track", "tracks") for one, other in zip(found, found[1:], strict=False))


_KINDS: tuple[tuple[Kind, frozenset[str]], ...] = (
    ("vocals", VOCALS), ("instrumental", INSTRUMENTAL), ("mixture", MIXTURE), ("part", PARTS)
)  # fmt: skip
_KNOWN = VOCALS | _SUNG | INSTRUMENTAL | MIXTURE | PARTS | NOT | OFF | QUALIFIERS | NEUTRAL


@dataclass(frozen=True)
class Titled:
    """A file name as the title of a song and the words for one of its stems."""

    title: str
    """Empty where the name is all about the stem."""
    stem: Named
    firm: bool = True
    """A sign sets the words for the stem apart: brackets, a full stop, a dash. A song may be called `Sweet Voice`."""


_ENCLOSED = re.compile(r"[(\[{]([^()\[\]{}]*)[)\]}]")
_FIRM = re.compile(r"\.| [-–—|] ")
_LOOSE = re.compile(r"[\s_-]+|\.")


@lru_cache(maxsize=2**14)
def titled(name: str) -> Titled | None:
    """`song.vocals`, `1_song_(Vocals)`, `song_no_vocals`, `Vocals - song`, `vocals`; None where no stem is named.

    Of the words for a stem, those in brackets are taken first, then those behind or before a full stop or a dash, then
    the longest run at the end.
    """
    for match in _ENCLOSED.finditer(name):
        if found := _titled(f"{name[: match.start()]} {name[match.end() :]}", match[1]):
            return found
    firm = list(_FIRM.finditer(name))
    for cut in reversed(firm):
        if found := _titled(name[: cut.start()], name[cut.end() :]):
            return found
    if (all_of_it := named(name)).kind is not None and all_of_it.whole:
        return Titled("", all_of_it)
    for cut in _LOOSE.finditer(name):
        if found := _titled(name[: cut.start()], name[cut.end() :]):
            return replace(found, firm=False)
    for cut in firm:
        if found := _titled(name[cut.end() :], name[: cut.start()]):
            return found
    return None


def _titled(title: str, stem: str) -> Titled | None:
    """The two, where the second is all about a stem and the first is not: in `lead (vocals)` it is a part of that."""
    said, rest = named(stem), named(title)
    title = re.sub(r"[\s_]+", " ", title).strip(" .-–—|")
    whole_title = rest.whole and not (rest.kind == "part" and said.kind in ("vocals", "instrumental"))
    return Titled(title, said) if said.kind is not None and said.whole and not whole_title else None


def title_key(title: str) -> str:
    """Equal for titles that differ in case, spaces and signs alone."""
    return " ".join(words(title))
