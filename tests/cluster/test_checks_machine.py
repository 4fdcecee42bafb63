from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.doctor.checks_machine import address, clock, disks, kind, limits, names, reached, secrets
from cluster.probe.readings import Disk, Interface, Names, SecretFile
from tests.cluster.node_reports import away, examination, head, link, study, system


def found(check, *reports, link=None):
    return [*check(examination(*reports, link=link))]


def only(check, *reports, link=None):
    (finding,) = (f for f in found(check, *reports, link=link) if f.severity != "ok")
    return finding


def test_of_two_healthy_pcs_nothing_is_wrong():
    for check in (reached, address, clock, names, kind, limits, secrets, disks):
        assert {f.severity for f in found(check, head(), study())} == {"ok"}


@pytest.mark.parametrize(
    ("unanswered", "role", "severity"),
    [
        ("off", "worker", "warns"),
        ("silent", "worker", "warns"),
        ("off", "head", "blocks"),
        ("refused", "worker", "blocks"),
        ("failed", "worker", "blocks"),
    ],
)
@pytest.mark.parametrize("why", ["no answer at 192.168.1.12:22", "Permission denied", "answers in other words"])
def test_a_node_that_is_off_can_join_later_and_one_that_refuses_cannot(unanswered, role, severity, why):
    finding = only(reached, *([study()] if role == "head" else [head()]), away("shed", why, role, unanswered))
    assert (finding.severity, finding.nodes) == (severity, ("shed",))
    assert why in finding.measured
    assert "ssh 192.168.1.12 true" in finding.remedy
    assert ("switch it on" in finding.remedy) == (unanswered in ("off", "silent"))


def test_the_way_to_a_node_is_shown_as_the_inventory_has_it():
    gone = study(spec={"user": "sam", "ssh": ["-p", "2222"]})
    finding = only(reached, head(), replace(gone, probe=None, why="Connection refused", unanswered="refused"))
    assert "ssh -p 2222 sam@192.168.1.11 true" in finding.remedy


def test_another_pc_at_the_address_is_noticed():
    moved = Interface("eno1", ("192.168.1.77",), 1500, 1000, wireless=False, up=True)
    finding = only(address, head(interfaces=(moved,)))
    assert (finding.severity, finding.measured) == ("blocks", "192.168.1.77 (eno1)")
    finding = only(address, head(spec={"interface": "eno1"}))
    assert (finding.severity, finding.measured) == ("blocks", "192.168.1.10 is on enp5s0")


@pytest.mark.parametrize(
    ("ahead_s", "severity"),
    [
        ((-0.2, 0.5), "ok"),
        ((0.5, 1.7), "ok"),
        ((1.2, 1.9), "warns"),
        ((-3600.5, -3599.8), "blocks"),
        ((61, 62), "blocks"),
    ],
)
def test_without_a_link_a_clock_is_wrong_only_beyond_doubt(ahead_s, severity):
    assert [f.severity for f in found(clock, head(ahead_s=ahead_s))] == [severity]


@pytest.mark.parametrize(("ahead_s", "severity"), [(0.4, "ok"), (-1.5, "warns"), (90.0, "blocks")])
def test_over_the_link_a_clock_is_compared_with_the_heads(ahead_s, severity):
    healthy, other = head(), study(ahead_s=(0.0, 0.0))
    forth = found(clock, healthy, other, link=link(clock_ahead_s=ahead_s))[1]
    # The same, measured from the other end.
    back = found(clock, other, healthy, link=link(clock_ahead_s=-ahead_s))[0]
    assert forth == back
    assert (forth.severity, forth.nodes) == (severity, ("study",))
    assert f"{abs(ahead_s):.3g} s {'ahead of' if ahead_s > 0 else 'behind'} the head" in forth.measured


@given(st.floats(-1e5, 1e5), st.floats(0, 3))
def test_what_is_said_of_a_clock_is_never_more_than_was_measured(true_s, doubt_s):
    (finding,) = found(clock, head(ahead_s=(true_s - doubt_s, true_s)))
    if finding.severity != "ok":
        assert abs(true_s) >= 1.0 or abs(true_s - doubt_s) >= 1.0
    if abs(true_s) > 60 + doubt_s:
        assert finding.severity == "blocks"


@pytest.mark.parametrize(
    ("changes", "severity", "remedy"),
    [
        ({"resolves_to": ()}, "warns", "tee -a /etc/hosts"),
        ({"resolves_to": ("192.168.1.99",)}, "blocks", "correct the line of attic in /etc/hosts"),
        ({"resolves_to": ("fe80::1",)}, "warns", "tee -a /etc/hosts"),
        ({"localhost": ("::1",)}, "warns", "127.0.0.1 localhost"),
        ({"localhost": ("::1", "127.0.0.1"), "ipv6_disabled": True}, "warns", "127.0.0.1 localhost"),
        ({"localhost": ()}, "warns", "127.0.0.1 localhost"),
    ],
)
def test_names_that_lead_elsewhere(changes, severity, remedy):
    healthy = Names("attic", ("127.0.1.1",), ("127.0.0.1",), ipv6_disabled=False)
    finding = only(names, head(names=replace(healthy, **changes)))
    assert finding.severity == severity
    assert remedy in finding.remedy


def test_debians_127_0_1_1_is_explained_and_no_fault():
    (finding,) = found(names, head())
    assert finding.severity == "ok"
    assert "attic → 127.0.1.1; harmless here" in finding.measured


def test_localhost_by_ipv6_first_is_fine_where_ipv6_works():
    both = Names("attic", ("192.168.1.10",), ("::1", "127.0.0.1"), ipv6_disabled=False)
    assert [f.severity for f in found(names, head(names=both))] == ["ok"]


WSL = "5.15.153.1-microsoft-standard-WSL2"
NAT = (Interface("eth0", ("172.29.16.5",), 1500, None, wireless=False, up=True),)
WIFI = (Interface("wlp3s0", ("192.168.1.10",), 1500, None, wireless=True, up=True),)


@pytest.mark.parametrize(
    ("changes", "severity", "measured", "remedy"),
    [
        (
            {"system": system(wsl=True, kernel=WSL), "interfaces": NAT},
            "blocks",
            "behind Windows",
            "networkingMode=mirrored",
        ),
        ({"system": system(wsl=True, kernel=WSL)}, "warns", "mirrored", "Set-NetFirewallHyperVVMSetting"),
        ({"interfaces": WIFI}, "warns", "192.168.1.10 is on Wi-Fi (wlp3s0)", "a cable"),
        ({"system": system(battery=True)}, "warns", "a laptop", "suspend.target"),
    ],
)
def test_what_is_not_a_desktop_on_a_cable_is_recognised(changes, severity, measured, remedy):
    finding = only(kind, head(**changes))
    assert finding.severity == severity
    assert measured in finding.measured
    assert remedy in finding.remedy


def test_a_second_card_with_wifi_does_not_matter():
    cable = Interface("enp5s0", ("192.168.1.10",), 1500, 1000, wireless=False, up=True)
    other = Interface("wlp3s0", ("192.168.1.23",), 1500, None, wireless=True, up=True)
    assert [f.severity for f in found(kind, head(interfaces=(cable, other)))] == ["ok"]


@pytest.mark.parametrize(
    ("changes", "severity", "remedy"),
    [
        ({"open_files": 4096}, "warns", "sam hard nofile 65536"),
        ({"inotify_instances": 64}, "warns", "fs.inotify.max_user_instances=512"),
        ({"inotify_watches": 4096}, "warns", "fs.inotify.max_user_watches=32768"),
        ({"shm_free_bytes": 2**30}, "warns", "--shm-size=4g"),
        ({"shm_free_bytes": 64 * 2**20}, "blocks", "remount,size=50%"),
    ],
)
def test_limits_that_are_too_low(changes, severity, remedy):
    finding = only(limits, head(system=system(**changes)))
    assert finding.severity == severity
    assert remedy in finding.remedy


def test_the_object_store_of_the_inventory_counts():
    small = {"system": system(shm_free_bytes=3 * 2**30)}
    assert found(limits, head(**small))[0].severity == "ok"
    assert found(limits, head(spec={"object_store_mib": 4096}, **small))[0].severity == "blocks"


@pytest.mark.parametrize(
    ("file", "severity", "remedy"),
    [
        (SecretFile("/s/vr/token", 0o644, mine=True), "blocks", "there: chmod 600 /s/vr/token"),
        (SecretFile("/s/vr/token", 0o640, mine=True), "blocks", "there: chmod 600 /s/vr/token"),
        (SecretFile("/s/vr/token", 0o600, mine=False), "blocks", "there: sudo chown sam /s/vr/token && chmod 600"),
        (SecretFile("/home/sam/.ray/auth_token", 0o644, mine=True), "warns", "chmod 600 /home/sam/.ray/auth_token"),
    ],
)
def test_a_token_that_others_may_read(file, severity, remedy):
    finding = only(secrets, head(secrets=(file,)))
    assert finding.severity == severity
    assert remedy in finding.remedy


def test_before_the_first_start_there_is_no_token():
    (finding,) = found(secrets, head(secrets=()))
    assert (finding.severity, finding.measured[:8]) == ("ok", "none yet")


GB = 10**9


@pytest.mark.parametrize(
    ("what", "total", "free", "severity"),
    [
        ("home", 500 * GB, 5 * GB, "warns"),
        ("temporary", 1000 * GB, 40 * GB, "blocks"),
        ("temporary", 1000 * GB, 60 * GB, "ok"),
        ("temporary", GB, GB // 2, "warns"),
        ("shared", 8000 * GB, 8 * GB, "warns"),
        ("shared", 8000 * GB, GB // 2, "blocks"),
        ("cache", 1000 * GB, 150 * GB, "warns"),
        ("cache", 1000 * GB, 250 * GB, "ok"),
    ],
)
def test_room_on_disks(what, total, free, severity):
    full = head(
        disks={what: Disk("/d", "ext4", "/dev/sda1", total, free, None)},
        spec={"cache": {"path": "/d", "quota_gb": 200}},
    )
    assert [f.severity for f in found(disks, full)] == [severity]


def test_a_folder_of_the_inventory_that_is_not_there_blocks():
    finding = only(disks, head(disks={"cache": Disk("/cache", "", "", 0, 0, "No such file or directory")}))
    assert (finding.severity, finding.remedy) == ("blocks", "there: mkdir -p /cache")
