from cluster.probe.graphics import count_adapters, parse_cards, parse_cuda_limit, parse_processes, read_graphics

# The columns of `_CARD_KEYS`, as drivers print them: a desktop card, a laptop's that does not tell its limit, and WSL2.
CARDS = """\
0, GPU-5b2a, NVIDIA GeForce RTX 3090 Ti, 24564, 23001, 31.52, 450.00, 41, 8.6, 580.95.05
1, GPU-77c1, NVIDIA GeForce RTX 3080 Ti Laptop GPU, 16384, 16011, 14.10, [N/A], 50, 8.6, 580.95.05
2, GPU-90ff, NVIDIA GeForce GTX 1080 Ti, 11264, 11100, [Not Supported], [Not Supported], [N/A], 6.1, 580.95.05
"""
PROCESSES = """\
GPU-5b2a, 4242, /home/sam/vr/.venv/bin/python, 1310
GPU-77c1, 1099, "/usr/games/a game, really", [N/A]
[Insufficient Permissions], [N/A], [N/A], [N/A]
"""
SUMMARY = """
==============NVSMI LOG==============

Timestamp                                 : Wed Nov 25 03:00:00 2026
Driver Version                            : 580.95.05
CUDA Version                              : 13.0

Attached GPUs                             : 1
"""


def test_cards_with_all_that_they_tell():
    cards, driver = parse_cards(CARDS)
    assert driver == "580.95.05"
    assert [(card.index, card.uuid, card.model) for card in cards] == [
        (0, "GPU-5b2a", "NVIDIA GeForce RTX 3090 Ti"),
        (1, "GPU-77c1", "NVIDIA GeForce RTX 3080 Ti Laptop GPU"),
        (2, "GPU-90ff", "NVIDIA GeForce GTX 1080 Ti"),
    ]
    assert [(card.memory_mib, card.free_mib) for card in cards] == [(24564, 23001), (16384, 16011), (11264, 11100)]
    assert [card.power_w for card in cards] == [31.52, 14.1, None]
    assert [card.limit_w for card in cards] == [450.0, None, None]
    assert [card.temperature_c for card in cards] == [41.0, 50.0, None]
    assert [card.capability for card in cards] == ["8.6", "8.6", "6.1"]


def test_a_driver_that_does_not_know_the_capability():
    cards, _ = parse_cards("0, GPU-1, NVIDIA Tesla K80, 11441, 11441, 26.0, 149.0, 30, P8, 470.82.01\n")
    assert cards[0].capability is None


def test_no_cards():
    assert parse_cards("No devices were found\n") == ((), None)
    assert parse_cards("") == ((), None)


def test_processes_on_cards():
    first, second = parse_processes(PROCESSES)
    assert (first.uuid, first.pid, first.memory_mib) == ("GPU-5b2a", 4242, 1310)
    assert (second.name, second.memory_mib) == ("/usr/games/a game, really", None)
    assert parse_processes("") == ()


def test_the_drivers_own_cuda():
    assert parse_cuda_limit(SUMMARY) == "13.0"
    assert parse_cuda_limit("CUDA UMD Version                          : 13.1\n") == "13.1"
    assert parse_cuda_limit("CUDA Version                              : N/A\n") is None


def device(folder, name, vendor, kind):
    (folder / name).mkdir(parents=True)
    (folder / name / "vendor").write_text(f"{vendor}\n")
    (folder / name / "class").write_text(f"{kind}\n")


def test_cards_on_the_bus_are_counted_without_a_driver(tmp_path):
    device(tmp_path, "0000:01:00.0", "0x10de", "0x030000")
    device(tmp_path, "0000:01:00.1", "0x10de", "0x040300")  # its sound
    device(tmp_path, "0000:02:00.0", "0x10de", "0x030200")
    device(tmp_path, "0000:00:02.0", "0x8086", "0x030000")
    assert count_adapters(tmp_path) == 2
    assert count_adapters(tmp_path / "none") == 0


def program(folder, text):
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_the_driver_is_asked_for_all(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    program(
        tmp_path,
        'case "$*" in *query-gpu*) echo "0, GPU-1, NVIDIA RTX A6000, 49140, 48000, 20, 300, 35, 8.6, 580.95.05";;\n'
        '*compute-apps*) echo "GPU-1, 7, python, 100";; *) echo "CUDA Version : 13.0";; esac',
    )
    graphics = read_graphics(tmp_path)
    assert [card.model for card in graphics.cards] == ["NVIDIA RTX A6000"]
    assert (graphics.driver, graphics.cuda_limit, graphics.error) == ("580.95.05", "13.0", None)
    assert [process.pid for process in graphics.processes] == [7]


def test_a_broken_driver_is_told_in_its_own_words(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path, 'echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18')
    assert read_graphics(tmp_path).error == "Failed to initialize NVML: Driver/library version mismatch"
    program(tmp_path, 'echo "No devices were found"; exit 6')
    assert read_graphics(tmp_path).error is None


def test_an_old_driver_is_asked_again_without_the_field_that_it_does_not_know(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    program(
        tmp_path,
        'case "$*" in *compute_cap*) echo "Field \\"compute_cap\\" is not a valid field to query."; exit 2;;\n'
        '*query-gpu*) echo "0, GPU-1, NVIDIA Tesla K80, 11441, 11441, 26.0, 149.0, 30, P8, 470.82.01";; esac',
    )
    assert [card.capability for card in read_graphics(tmp_path).cards] == [None]


def test_without_nvidia_smi_there_is_no_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    graphics = read_graphics(tmp_path)
    assert (graphics.driver, graphics.cards, graphics.error) == (None, (), None)
