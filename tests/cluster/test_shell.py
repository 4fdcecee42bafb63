import shlex

from cluster.inventory import NodeSpec
from cluster.shell import ssh_argv

STUDY = NodeSpec(name="study", address="192.168.1.11", user="sam", ssh=("-p", "2222"))


def test_a_command_goes_through_the_users_own_ssh_and_asks_for_nothing():
    argv = ssh_argv(STUDY, ["cat", "it's here; rm -r ~"])
    assert argv[0] == "ssh"
    assert argv[-5:-1] == ["-p", "2222", "sam@192.168.1.11", "--"]
    # What a shell over there makes of the last word is the command again, whatever is in it.
    assert shlex.split(argv[-1]) == ["cat", "it's here; rm -r ~"]
    assert "BatchMode=yes" in argv


def test_without_a_user_it_is_whom_ssh_itself_takes():
    assert ssh_argv(STUDY.model_copy(update={"user": None}), ["true"])[-3] == "192.168.1.11"
