"""What the published packages say, run by their own environment: `python -m tests.bench.published_run FOLDER`.

Packages are entered by the files of their models alone: their `__init__` imports what separation of files needs.
"""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.published import CASES, Case, digest, fill, song

_LIBRARY = "audio_separator.separator.uvr_lib_v5"


def _bare(name: str, folder: Path) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module
    return module


def classes() -> dict[str, Any]:
    """Kind → the published class."""
    found = importlib.util.find_spec("audio_separator")
    assert found is not None
    assert found.origin is not None
    folder, name = Path(found.origin).parent, "audio_separator"
    _bare(name, folder)
    for part in ("separator", "uvr_lib_v5"):
        folder, name = folder / part, f"{name}.{part}"
        _bare(name, folder)
    for part in ("roformer", "vr_network"):
        _bare(f"{_LIBRARY}.{part}", folder / part)
    # It reads audio files with more packages; of it the networks take one function, for frames that differ: none here.
    utilities = _bare(f"{_LIBRARY}.spec_utils", folder / "nothing")
    utilities.crop_center = lambda one, other: one
    sys.modules[_LIBRARY].spec_utils = utilities
    roformer, network = f"{_LIBRARY}.roformer", f"{_LIBRARY}.vr_network"
    return {
        "bs_roformer": importlib.import_module(f"{roformer}.bs_roformer").BSRoformer,
        "mel_roformer": importlib.import_module(f"{roformer}.mel_band_roformer").MelBandRoformer,
        "cascaded_net": importlib.import_module(f"{network}.nets_new").CascadedNet,
    }


@torch.inference_mode()
def said(case: Case, model: torch.nn.Module) -> torch.Tensor:
    """Its stems `[item, stem, channel, sample]`; of a network that takes no samples its mask."""
    signal = song(case)
    if case.kind != "cascaded_net":
        found = model(signal[None])
        return found if found.ndim == 4 else found[:, None]
    spectrum = torch.stft(signal, 2048, case.hop, window=torch.hann_window(2048), return_complex=True).abs()
    return model((spectrum / spectrum.max())[None])[:, None, ..., 8:24]


def main(folder: Path) -> None:
    """Write a file for each case."""
    made = classes()
    for name, case in CASES.items():
        model = made[case.kind](**case.published).eval()
        state = model.state_dict()
        fill(state)
        found = said(case, model).contiguous()
        save_file({"said": found}, folder / f"{name}.safetensors", {"digest": digest(state)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
