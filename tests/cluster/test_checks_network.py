import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.doctor.checks_network import exchange_s, links, mtu, ports
from cluster.probe.readings import Interface, Link, Port
from tests.cluster.node_reports import examination, head, link, study


def nic(address, mtu=1500, speed=1000, wireless=False):
    return {"interfaces": (Interface("enp5s0", (address,), mtu, speed, wireless, up=True),)}


def found(check, one=None, other=None, **changes):
    return [*check(examination(one or head(), other or study(), link=link(**changes)))]


def only(check, one=None, other=None, **changes):
    (finding,) = (f for f in found(check, one, other, **changes) if f.severity != "ok")
    return finding


def test_of_a_good_link_nothing_is_wrong():
    for check in (ports, links, mtu):
        assert {f.severity for f in found(check)} == {"ok"}


def test_a_blocked_port_is_named_with_what_it_is_for_and_what_to_type():
    closed = (Port(6380, "silent"), Port(6381, "refused"), Port(10002, "open"))
    finding = only(ports, ports=closed)
    assert (finding.severity, finding.nodes) == ("blocks", ("study", "attic"))
    assert finding.measured == "on study: 6380 (node manager: no answer), 6381 (object manager: rejected)"
    assert "on study: sudo ufw allow from 192.168.1.10" in finding.remedy
    assert "on attic for 192.168.1.11" in finding.remedy


def test_without_metrics_a_cluster_works():
    assert only(ports, ports=(Port(6384, "silent"), Port(6380, "open"))).severity == "warns"
    assert only(ports, ports=(Port(6384, "silent"), Port(6380, "silent"))).severity == "blocks"


def test_a_firewall_that_lets_ray_through_and_not_torch():
    shut = Link((Port(6380, "open"),), error="no connection to any of the ports 40001, 40002")
    (finding,) = ports(examination(head(), study(), link=shut))
    assert finding.severity == "blocks"
    assert "open are 6380" in finding.measured
    assert "32768 to 60999" in finding.needed
    nothing = Link((Port(6380, "silent"),), error="no connection to any of the ports 40001, 40002")
    (finding,) = ports(examination(head(), study(), link=nothing))
    assert "nor any other port" in finding.measured
    assert [*links(examination(head(), study(), link=shut)), *mtu(examination(head(), study(), link=shut))] == []


def test_a_pair_that_could_not_be_measured_is_not_passed_over():
    measured = examination(head(), study(), links_why={("attic", "study"): "no answer in 120 s"})
    (finding,) = ports(measured)
    assert (finding.severity, finding.nodes) == ("blocks", ("attic", "study"))


@pytest.mark.parametrize(
    ("changes", "one", "other", "remedy"),
    [
        ({"there_mbit": 94.0, "back_mbit": 94.0}, nic("192.168.1.10", speed=100), {}, "the card agreed on 100 Mbit/s"),
        ({"there_mbit": 94.0}, {}, {}, "another cable"),
        ({"back_mbit": 94.0}, {}, {}, "another cable"),
        ({"there_mbit": 300.0}, {}, nic("192.168.1.11", speed=None, wireless=True), "a cable for study"),
        (
            {"there_mbit": 3000.0, "back_mbit": 3100.0},
            nic("192.168.1.10", speed=10000),
            nic("192.168.1.11", speed=10000),
            "CPU's load",
        ),
        (
            {"there_mbit": 2400.0, "back_mbit": 900.0},
            nic("192.168.1.10", speed=None),
            nic("192.168.1.11", speed=None),
            "measure again",
        ),
        ({"there_resent": 0.05}, {}, {}, "faulty switch"),
        ({"back_resent": 0.05}, {}, {}, "faulty switch"),
        ({"rtt_ms": 12.0}, {}, {}, "instead of a VPN's"),
    ],
)
def test_a_link_that_holds_training_up(changes, one, other, remedy):
    finding = only(links, head(**one), study(**other), **changes)
    assert (finding.severity, finding.nodes) == ("warns", ("attic", "study"))
    assert remedy in finding.remedy


def test_a_slow_link_says_what_it_costs():
    assert "3.2 s here" in only(links, there_mbit=100.0, back_mbit=100.0).needed
    assert exchange_s(1000.0, 10e6) == pytest.approx(0.32)


@given(st.floats(0.01, 1e5), st.floats(0.01, 1e5))
def test_the_slower_direction_decides(there, back):
    severities = {f.severity for f in found(links, there_mbit=there, back_mbit=back)}
    assert severities == {f.severity for f in found(links, there_mbit=back, back_mbit=there)}
    if min(there, back) < 800:
        assert severities == {"warns"}


@pytest.mark.parametrize(
    ("one", "other", "changes", "severity"),
    [
        (1500, 1500, {}, "ok"),
        (9000, 9000, {"path_mtu": 9000}, "ok"),
        (9000, 9000, {"path_mtu": 9000, "full_packet": False}, "blocks"),  # a switch without jumbo frames
        (9000, 1500, {"path_mtu": 1500}, "warns"),
        (9000, 1500, {"path_mtu": 9000, "full_packet": False}, "warns"),
        (1500, 1500, {"path_mtu": 1420, "full_packet": False}, "ok"),  # a tunnel that says how large it is
        (1500, 1500, {"full_packet": None}, "ok"),
    ],
)
def test_packet_sizes(one, other, changes, severity):
    sides = head(**nic("192.168.1.10", one)), study(**nic("192.168.1.11", other))
    assert [f.severity for f in found(mtu, *sides, **changes)] == [severity]


def test_a_connection_that_breaks_off_under_load():
    broken = {"there_mbit": None, "back_mbit": None, "error": "the connection broke off (timed out)"}
    assert [f.severity for f in found(ports, **broken)] == ["ok"]
    finding = only(links, **broken)
    assert (finding.severity, "cable" in finding.remedy) == ("blocks", True)
    assert "see mtu" in only(links, **broken, full_packet=False).remedy
