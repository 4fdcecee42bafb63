import pytest

from cluster.doctor.checks_storage import rates, shared
from tests.cluster import node_reports
from tests.cluster.node_reports import examination, link, share

NAS = {"spec": {"shared": "/mnt/nas"}}
CACHE = {"shared": "/mnt/nas", "cache": {"path": "/cache", "quota_gb": 100}}


def head(**changes):
    return node_reports.head(**{**NAS, "share": share(), "share_rates": node_reports.rates(), **changes})


def study(**changes):
    return node_reports.study(**{**NAS, "share": share(), "share_rates": node_reports.rates(), **changes})


def only(check, *nodes, **changes):
    (finding,) = (f for f in check(examination(*nodes, **changes)) if f.severity != "ok")
    return finding


def test_of_one_folder_for_all_nothing_is_wrong():
    measured = examination(head(), study(), link=link(stale_s=0.02), share_write=90e6)
    assert {f.severity for check in (shared, rates) for f in check(measured)} == {"ok"}


@pytest.mark.parametrize(
    ("changes", "severity", "measured"),
    [
        ({"same_file": False}, "blocks", "the file that attic wrote is not there"),
        ({"same_file": False, "error": "/mnt/nas/x: No such file or directory"}, "blocks", "is not there"),
        ({"renamed": False, "error": "/mnt/nas/x: Permission denied"}, "blocks", "Permission denied"),
        ({"renamed": False}, "blocks", "a renamed file kept its old content"),
        ({"locked": False}, "warns", "a lock keeps nobody out"),
        ({"lock_seen": False}, "warns", "a lock of another node keeps nobody out"),
    ],
)
def test_a_folder_that_is_not_one_for_all(changes, severity, measured):
    finding = only(shared, head(), study(share=share(**changes)))
    assert (finding.severity, finding.nodes) == (severity, ("study",))
    assert measured in finding.measured


@pytest.mark.parametrize(("mode", "severity"), [(0o700, "ok"), (0o755, "ok"), (0o775, "warns"), (0o777, "warns")])
def test_a_folder_that_others_may_write_is_named_with_what_that_means(mode, severity):
    findings = [f for f in shared(examination(head(), study(share=share(mode=mode)))) if f.severity != "ok"]
    assert [f.severity for f in findings] == [severity] * (severity != "ok")
    for finding in findings:
        assert f"mode {mode:04o}, others may write there" in finding.measured
        assert finding.remedy.startswith("there: chmod go-w /mnt/nas")


def test_a_folder_that_cannot_be_written_at_all():
    finding = only(shared, head(share=None, share_why="/mnt/nas: Read-only file system"))
    assert finding.severity == "blocks"
    assert "Read-only file system" in finding.measured


def test_a_lock_that_was_not_tried_is_no_fault():
    assert {f.severity for f in shared(examination(head(share=share(lock_seen=None))))} == {"ok"}


def test_a_node_without_the_folder_is_named_but_one_pc_alone_needs_none():
    bare = node_reports.study()
    assert only(shared, head(), bare).nodes == ("study",)
    assert [*shared(examination(node_reports.head()))] == []


@pytest.mark.parametrize(
    ("changes", "severity"),
    [({"stale_s": 0.3}, "ok"), ({"stale_s": 8.0}, "warns"), ({"stale_error": "not seen within 10 s"}, "warns")],
)
def test_a_change_must_be_seen_soon(changes, severity):
    found = [f for f in shared(examination(head(), study(), link=link(**changes))) if len(f.nodes) == 2]
    assert [f.severity for f in found] == [severity]
    if severity == "warns":
        assert "actimeo=1" in found[0].remedy


def test_of_a_folder_that_is_another_no_delay_is_told():
    other = study(share=share(same_file=False))
    assert [f for f in shared(examination(head(), other, link=link(stale_error="gone"))) if len(f.nodes) == 2] == []


@pytest.mark.parametrize(
    ("changes", "severity"),
    [({}, "ok"), ({"crops": 20e6}, "warns"), ({"read": 30e6}, "warns"), ({"crops": None, "error": "gone"}, None)],
)
def test_the_shared_folder_must_feed_a_card(changes, severity):
    found = [*rates(examination(head(share_rates=node_reports.rates(**changes))))]
    assert [f.severity for f in found] == ([severity] if severity else [])


def test_slow_writes_warn_of_slow_checkpoints():
    assert "a checkpoint of 1 GB takes 50 s" in only(rates, head(), share_write=5e6).needed


@pytest.mark.parametrize(("crops", "severity"), [(500e6, "ok"), (90e6, "warns"), (None, "blocks")])
def test_a_cache_must_be_faster_than_what_it_caches(crops, severity):
    error = None if crops else "No space left on device"
    cache = node_reports.rates(path="/cache", write=400e6, crops=crops, error=error)
    found = [*rates(examination(head(spec=CACHE, cache=cache)))]
    assert [f.severity for f in found] == ["ok", severity]
