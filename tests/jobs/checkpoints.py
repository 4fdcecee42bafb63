"""A model small enough for checkpoints of a few kilobytes."""

from vr_core.specs import PlainStackSpec, StftSpec

SPEC = PlainStackSpec(width=4, blocks=1, expansion=1)
STFT = StftSpec(n_fft=64, hop=32)
