"""Commands on other PCs, through the system's `ssh` with the user's own configuration, agent and keys."""

import shlex
from collections.abc import Sequence

from cluster.inventory import NodeSpec

_CONNECT_S = 5


def ssh_argv(node: NodeSpec, argv: Sequence[str]) -> list[str]:
    """The command of this machine that runs `argv` on `node`; it asks for nothing.

    A question (a password, an unknown host) would wait for ever where nobody sees it.
    """
    login = f"{node.user}@{node.address}" if node.user else node.address
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_S}"]
    return ["ssh", *options, *node.ssh, login, "--", shlex.join(argv)]
