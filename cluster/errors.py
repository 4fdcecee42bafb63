"""What can go wrong with a cluster, as one line for the user."""

from vr_core.errors import Failure, UserError


class ClusterError(UserError):
    """The cluster command cannot be carried out as asked."""


class NoHead(ClusterError):
    """No live head was started from this account on this machine."""


class TokenError(ClusterError):
    """The token file is missing, readable by others, malformed, or not the cluster's."""


class ClusterFailure(Failure):
    """Ray, or a process beside it, did not start, answer or end."""


class OtherAtWork(ClusterFailure):
    """Another process starts or ends a head or node on this PC."""


class ForeignListener(ClusterFailure):
    """Another account of this PC listens where a process of the cluster should."""
