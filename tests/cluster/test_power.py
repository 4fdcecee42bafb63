import pytest

from cluster.hardware.power import PowerLimit, apply_caps, cap_message, parse_limits, set_argv, wanted_caps
from cluster.inventory import GpuSpec

# Written after the driver's documentation, not recorded: no card was at hand.
TABLE = "0, 350.00, 100.00, 400.00\n1, [N/A], [N/A], [N/A]\n"
DONE = (
    "Power limit for GPU 00000000:01:00.0 was set to 300.00 W from 350.00 W.\n\n"
    "Warning: persistence mode is disabled on device 00000000:01:00.0. See the Known Issues section of the "
    "nvidia-smi(1) man page for more information.\nAll done.\n"
)
NOT_ROOT = (
    "The current user does not have permission to change power management limit for GPU 00000000:01:00.0.\n"
    "Terminating early due to previous errors.\n"
)
OUT_OF_RANGE = (
    "Provided power limit 50.00 W is not a valid power limit which should be between 100.00 W and 400.00 W for GPU "
    "00000000:01:00.0\nTerminating early due to previous errors.\n"
)
CAPPED = GpuSpec(model="NVIDIA GeForce RTX 3090 Ti", memory_gib=24, power_cap_w=300)
FREE = GpuSpec(model="NVIDIA GeForce RTX 3080 Ti", memory_gib=12)
NOW = PowerLimit(now_w=350, min_w=100, max_w=400)


def test_limits_are_read_from_nvidia_smis_table():
    assert parse_limits(TABLE) == {0: NOW}
    assert parse_limits("No devices were found\n") == {}


def test_cards_without_a_cap_are_left_alone():
    assert wanted_caps([FREE, CAPPED]) == {1: 300}
    assert set_argv(1, 300) == ["nvidia-smi", "-i", "1", "-pl", "300"]
    assert apply_caps([FREE]) == []


@pytest.mark.parametrize(
    ("watts", "code", "output", "limit", "said"),
    [
        (300, 0, DONE, NOW.model_copy(update={"now_w": 300}), "GPU 0: power cap 300 W"),
        (300, 4, NOT_ROOT, NOW, "GPU 0: stays at 350 W; only root may cap it: sudo nvidia-smi -i 0 -pl 300"),
        (50, 2, OUT_OF_RANGE, NOW, "GPU 0: stays at 350 W; power_cap_w 50 should be 100 to 400"),
        (300, 0, DONE, NOW, "GPU 0: stays at 350 W instead of 300 W (Power limit for GPU"),
        (300, 255, "Unable to", None, "GPU 0: this card has no power limit that can be set; leave power_cap_w out"),
    ],
)
def test_what_holds_is_said_and_not_what_was_asked_for(watts, code, output, limit, said):
    assert cap_message(0, watts, code, output, limit).startswith(said)


def test_the_driver_is_asked_and_the_limit_read_back(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = -i ]; then echo "$4" > {tmp_path}/limit; exit 0; fi\n'
        f'read limit < {tmp_path}/limit; echo "0, $limit.00, 100.00, 400.00"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert apply_caps([CAPPED]) == ["GPU 0: power cap 300 W"]
