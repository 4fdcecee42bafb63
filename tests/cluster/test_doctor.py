import io

from rich.console import Console

from cluster.doctor.diagnosis import blocks, findings, head_finding, summary, table
from cluster.doctor.report import ClusterReport
from tests.cluster.node_reports import away, examination, head, link, study, system


def test_two_healthy_pcs_may_start():
    found = findings(examination(head(), study(), link=link()))
    assert not blocks(found)
    # Nobody gave them a shared folder.
    assert [f.check for f in found if f.severity != "ok"] == ["shared folder"]


def test_what_blocks_comes_first_and_what_is_well_last():
    sick = study(system=system(open_files=10, shm_free_bytes=0))
    found = findings(examination(head(), sick, link=link()))
    severities = [f.severity for f in found]
    assert severities == sorted(severities, key=["blocks", "warns", "ok"].index)
    assert blocks(found)


def test_every_finding_says_what_was_measured_and_needed_and_a_problem_what_to_do():
    sick = study(system=system(wsl=True, battery=True, open_files=10, inotify_watches=1, shm_free_bytes=0))
    for finding in findings(examination(head(secrets=()), sick, away("shed", "No route to host"), link=link())):
        assert finding.measured
        assert finding.needed
        assert bool(finding.remedy) == (finding.severity != "ok"), finding


def test_what_is_well_in_the_same_way_is_said_once():
    ok = [f for f in findings(examination(head(), study(), link=link())) if f.check == "limits"]
    assert [f.nodes for f in ok] == [("attic", "study")]


def test_if_no_node_answers_only_that_is_said():
    found = findings(ClusterReport((away("attic", "no route", "head"), away("study", "no route"))))
    assert [(f.check, f.severity) for f in found] == [("reached", "blocks"), ("reached", "warns")]


def test_the_head_of_this_machine():
    assert head_finding(None, "").severity == "ok"
    assert head_finding(None, "the Ray head has died").severity == "blocks"


def test_the_table_is_plain_text_to_a_reader():
    odd = study(system=system(wsl=True, kernel="5.15[bold]-microsoft"))
    found = findings(examination(head(), odd, link=link()))
    console = Console(file=io.StringIO(), width=250)
    console.print(table(found))
    shown = console.file.getvalue()
    assert "WSL2 (5.15[bold]-microsoft)" in shown
    assert "→ " in shown
    assert summary(found).startswith("0 block, 2 warn, ")
