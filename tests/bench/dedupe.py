"""Copies of recordings among songs that are none: how many are found, and what else is called a copy.

Every labelled song (the shared ones where they are, else invented ones) gets a copy changed in one of seven ways, among
as many invented songs as are asked for. The line between copy and none is at a share of wrong bits: the worst copy and
the nearest pair of other songs say how far from it they are.
"""

import tempfile
from pathlib import Path
from typing import Any

from dataprep.audio.tracks import Track, find_tracks
from dataprep.fingerprints import fingerprint
from dataprep.fingerprints import store as heard
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.shards.dataset import Dataset
from dataprep.synth.songs import write_songs
from tests.bench.codec import songs
from tests.bench.measurement import Benchmark
from tests.dataprep.copies import WHAT, planted

PROMISED_SHARE = 0.95
INVENTED, INVENTED_QUICK = 1000, 100
INVENTED_S = 12.0


def measure(quick: bool) -> dict[str, Any]:
    """Pairs below the line, and what lies on either side of it."""
    with tempfile.TemporaryDirectory(prefix="vr-bench-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        originals, what = songs(folder / "music")
        for i, track in enumerate(originals):
            (folder / str(i)).mkdir()
            originals[i] = Track(f"original-{track.id}", track.stems)
        copies = [
            Track(f"copy-of-{track.id}", planted(folder / str(i), track, WHAT[i % len(WHAT)]).stems)
            for i, track in enumerate(originals)
        ]
        for _ in write_songs(folder / "invented", INVENTED_QUICK if quick else INVENTED, INVENTED_S, 99):
            pass
        others = list(find_tracks([folder / "invented"]).tracks)
        prepare([*originals, *copies, *others], folder / "data", PrepareSettings(mixture=True))
        data = Dataset.open(folder / "data")
        prints = list(heard.fingerprints(data))
        frame_s = data.stft.hop / data.stft.sample_rate_hz
        found = {tuple(sorted(pair[:3:2])): pair for pair in fingerprint.pairs(prints, frame_s, most_wrong_bits=0.5)}
    wanted = {tuple(sorted((f"copy-of-{track.id}", track.id))) for track in originals}
    line = fingerprint.MOST_WRONG_BITS
    copied = {names for names, pair in found.items() if pair.wrong_bits <= line}
    return {
        "ratio": 0.0 if copied - wanted else len(copied & wanted) / len(wanted) / PROMISED_SHARE,
        "planted": f"{len(wanted)} among {len(others)} invented and {len(originals)} {what}",
        "found": len(copied & wanted),
        "false_pairs": len(copied - wanted),
        "line_wrong_bits": line,
        "worst_copy_wrong_bits": max((found[names].wrong_bits for names in wanted & set(found)), default=None),
        "nearest_other_wrong_bits": min((pair.wrong_bits for names, pair in found.items() if names not in wanted)),
    }


BENCHMARK = Benchmark("planted copies found over 95 %; 0 where anything else is called a copy", measure)
