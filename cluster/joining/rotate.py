"""A new token for a cluster: the head starts again with it, and each PC joins again with a code of its own."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cluster.joining.admission import await_endpoint
from cluster.joining.invitations import forget_all, invite
from cluster.node.head import Head, state_folder
from cluster.node.lifecycle import restart_head
from cluster.node.supervision import Companion
from cluster.trust.token import replace_token
from cluster.versions import Versions


class Rotated(NamedTuple):
    """What came of it."""

    head: Head
    codes: dict[str, str]
    """PC → join code, for `vr cluster join - --yes` on it, the code on its stdin."""


def rotate(companions: Sequence[Companion], pcs: Iterable[str], versions: Versions) -> Rotated:
    """Give the head of this machine a new token, void all join codes, and make a new code for each of `pcs`.

    Ray has one secret, which is read at start: the head, what runs beside it and every node must start again. Jobs end
    with the head; the runs that are unfinished are submitted again by the keeper, which is one of the companions.

    Raises:
        NoHead: none was started here.
        ClusterFailure: it does not start again; the new token is in place then, and `vr cluster head` uses it.
    """
    token_file = state_folder() / "token"

    def change() -> None:
        replace_token(token_file)
        forget_all()

    head = restart_head(change, companions)
    if head.node.loopback_only:
        return Rotated(head, {})
    await_endpoint(head)
    return Rotated(head, {pc: invite(head, versions) for pc in pcs})
