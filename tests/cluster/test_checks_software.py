from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.doctor.checks_software import MIN_DRIVER, cards, driver, installed, numbers, python, versions
from cluster.probe.readings import CardProcess, Graphics
from tests.cluster.node_reports import card, examination, head, software, study

GRAPHICS = Graphics(1, "580.95.05", "13.0", (card(),), (), None)


def said(check, *reports):
    return [(f.check, f.severity, f.nodes) for f in check(examination(*reports))]


def only(check, *reports):
    (finding,) = (f for f in check(examination(*reports)) if f.severity != "ok")
    return finding


def test_of_two_equal_nodes_nothing_is_wrong():
    for check in (installed, python, versions, driver, cards):
        assert {severity for _, severity, _ in said(check, head(), study())} == {"ok"}


def test_a_bare_pc_is_told_what_is_missing_and_not_compared():
    bare = study(software=software(ray=None, torch=None, torch_cuda=None, vr=None))
    finding = only(installed, head(), bare)
    assert (finding.severity, finding.nodes) == ("blocks", ("study",))
    assert finding.measured == "vr, ray, torch missing in /home/sam/vr/.venv/bin/python"
    assert said(versions, head(), bare) == [(name, "ok", ("attic",)) for name in ("ray", "torch", "vr")]


@pytest.mark.parametrize(
    ("other", "severity", "remedy"),
    [
        ("3.11.9", "warns", "uv python install 3.11.7"),
        ("3.12.7", "blocks", "uv python install 3.11 "),
        ("3.10.12", "blocks", "uv python install 3.13"),
        ("3.14.0", "blocks", "uv python install 3.13"),
    ],
)
def test_another_python_blocks_and_another_patch_warns(other, severity, remedy):
    finding = only(python, head(), study(software=software(python=other)))
    assert (finding.check, finding.severity, finding.nodes) == ("python", severity, ("study",))
    assert other in finding.measured
    assert remedy in finding.remedy


@given(*([st.integers(0, 20)] * 4))
def test_pythons_are_equal_only_in_all_three_numbers(minor, patch, other_minor, other_patch):
    one, other = f"3.{minor}.{patch}", f"3.{other_minor}.{other_patch}"
    found = [*python(examination(head(software=software(python=one)), study(software=software(python=other))))]
    severities = {f.nodes[-1]: f.severity for f in found}
    if not 11 <= other_minor <= 13 or other_minor != minor:
        assert severities["study"] == "blocks"
    else:
        assert severities["study"] == ("ok" if patch == other_patch else "warns")


@pytest.mark.parametrize(
    ("changes", "check", "severity"),
    [
        ({"ray": "2.60.1"}, "ray", "blocks"),
        ({"torch": "2.12.0"}, "torch", "blocks"),
        ({"torch": "2.13.1"}, "torch", "warns"),
        ({"vr": "0.2.0"}, "vr", "blocks"),
    ],
)
def test_other_versions_than_the_heads(changes, check, severity):
    finding = only(versions, head(), study(software=software(**changes)))
    assert (finding.check, finding.severity, finding.nodes) == (check, severity, ("study",))
    assert finding.needed.endswith("as on attic")


def test_the_head_sets_the_version_wherever_it_stands_in_the_inventory():
    finding = only(versions, study(software=software(ray="2.59.0")), head())
    assert finding.nodes == ("study",)


@pytest.mark.parametrize(
    ("installed_driver", "cuda", "severity"),
    [
        ("580.65.06", "13.0", "ok"),
        ("580.65.05", "13.0", "blocks"),
        ("575.64.03", "13.0", "blocks"),
        ("575.64.03", "12.8", "ok"),
        ("525.60.13", "12.6", "ok"),
        ("525.53", "12.6", "blocks"),
        ("1000.1", "13.2", "ok"),
        ("470.82.01", "11.8", "ok"),
        ("580.95.05", "14.0", "ok"),  # not in the table: nothing is known against it
    ],
)
def test_the_driver_must_be_new_enough_for_torchs_cuda(installed_driver, cuda, severity):
    graphics = replace(GRAPHICS, driver=installed_driver)
    found = [*driver(examination(head(graphics=graphics, software=software(torch_cuda=cuda))))]
    assert [f.severity for f in found] == [severity]
    if severity == "blocks":
        assert f"nvidia-driver-{MIN_DRIVER[int(cuda[:2])].partition('.')[0]}" in found[0].remedy


@given(st.sampled_from(sorted(MIN_DRIVER)), *([st.integers(1, 999)] * 3))
def test_drivers_are_compared_by_number_and_not_as_text(major, branch, minor, patch):
    graphics = replace(GRAPHICS, driver=f"{branch}.{minor:02}.{patch:02}")
    found = [*driver(examination(head(graphics=graphics, software=software(torch_cuda=f"{major}.0"))))]
    needed = tuple(map(int, MIN_DRIVER[major].split(".")))
    assert found[0].severity == ("ok" if (branch, minor, patch) >= needed else "blocks")


@pytest.mark.parametrize(
    ("graphics", "torch", "measured", "remedy"),
    [
        (Graphics(2, None, None, (), (), None), software(), "2 NVIDIA cards on the bus", "ubuntu-drivers install"),
        (
            Graphics(1, None, None, (), (), "Failed to initialize NVML: Driver/library version mismatch"),
            software(),
            "version mismatch",
            "sudo reboot",
        ),
        (GRAPHICS, software(torch_cuda=None), "torch 2.13.0 without CUDA", "uv sync"),
    ],
)
def test_a_card_that_torch_cannot_use_blocks(graphics, torch, measured, remedy):
    finding = only(driver, head(graphics=graphics, software=torch))
    assert (finding.check, finding.severity) == ("driver", "blocks")
    assert measured in finding.measured
    assert remedy in finding.remedy


def test_a_pc_without_cards_needs_no_driver():
    assert said(driver, head(graphics=Graphics(0, None, None, (), (), None))) == []


def test_two_cuda_builds_warn():
    old = study(software=software(torch_cuda="12.8"))
    finding = only(driver, head(), old)
    assert (finding.check, finding.severity, finding.nodes) == ("cuda", "warns", ("attic", "study"))
    assert finding.measured == "attic CUDA 13.0, study CUDA 12.8"


@pytest.mark.parametrize(
    ("capability", "cuda", "blocked"),
    [("6.1", "13.0", True), ("7.0", "13.0", True), ("7.5", "13.0", False), ("6.1", "12.6", False)]
    + [("12.0", "12.6", True), ("12.0", "12.8", False), ("12.0", "13.0", False), (None, "13.0", False)],
)
def test_torch_needs_code_for_the_card(capability, cuda, blocked):
    graphics = replace(GRAPHICS, cards=(card(capability=capability),))
    found = [*cards(examination(head(graphics=graphics, software=software(torch_cuda=cuda))))]
    assert [f.severity for f in found] == ["blocks" if blocked else "ok"]


def test_the_inventorys_cards_must_be_there_and_be_these():
    big, small = {"model": "GeForce RTX 3090 Ti", "memory_gib": 24}, {"model": "GeForce RTX 3080 Ti", "memory_gib": 12}
    finding = only(cards, head(spec={"gpus": [big, big]}))
    assert finding.severity == "blocks"
    assert finding.needed == "2 cards, as the inventory lists"
    finding = only(cards, head(spec={"gpus": [small]}))
    assert (finding.severity, finding.measured) == ("warns", "card 0 is NVIDIA GeForce RTX 3090 Ti")
    named = {"model": "GeForce RTX 3090 Ti", "memory_gib": 24}
    assert said(cards, head(spec={"gpus": [named]})) == [("cards", "ok", ("attic",))]


def test_cards_that_are_kept_back_may_be_busy():
    busy = replace(GRAPHICS, cards=(card(free_mib=100),))
    assert said(cards, head(graphics=busy, spec={"gpus": []})) == [("cards", "ok", ("attic",))]


def test_who_else_uses_a_card_is_named():
    games = CardProcess("GPU-1", 4242, "/usr/games/quake", 9000)
    finding = only(cards, head(graphics=replace(GRAPHICS, cards=(card(free_mib=15000),), processes=(games,))))
    assert finding.severity == "warns"
    assert "quake (process 4242, 9000 MiB)" in finding.measured
    elsewhere = replace(games, uuid="GPU-2")
    assert said(cards, head(graphics=replace(GRAPHICS, processes=(elsewhere,)))) == [("cards", "ok", ("attic",))]
    desktop = only(cards, head(graphics=replace(GRAPHICS, cards=(card(free_mib=20000),))))
    assert "used by the desktop" in desktop.measured


def test_a_hot_card_warns():
    assert "power_cap_w" in only(cards, head(graphics=replace(GRAPHICS, cards=(card(temperature_c=88.0),)))).remedy


def test_a_card_that_tells_nothing_of_itself_is_no_problem():
    silent = card(power_w=None, limit_w=None, temperature_c=None, capability=None)
    (finding,) = cards(examination(head(graphics=replace(GRAPHICS, cards=(silent,)))))
    assert finding.measured == "GeForce RTX 3090 Ti 23.5 of 24.0 GiB free"


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=4), st.sampled_from(["", "+cu130", "rc1", "-generic"]))
def test_the_numbers_of_a_version(parts, rest):
    assert numbers(".".join(map(str, parts)) + rest) == tuple(parts)
    assert numbers(rest) == ()
