"""Machines that Ray holds for jobs that have ended, and giving them back.

A start's workers compute in a placement group: CPUs and GPUs that Ray reserves on their machines. Ray removes it when
the job has ended and the actor that made it has died. The death of that actor it keeps in memory only: when the head's
Ray dies in the moment between the two (out of memory kills one process after the other), it comes back without knowing,
and holds the machines for ever (Ray 2.60, seen).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Reservation:
    """A placement group that is not removed."""

    id: str
    job: str
    """Id of the job that made it."""
    is_detached: bool
    """It was made to outlive its job."""


def abandoned(reservations: Iterable[Reservation], ended_jobs: Collection[str]) -> list[str]:
    """Ids of those that nobody will ever give back."""
    return [held.id for held in reservations if not held.is_detached and held.job in ended_jobs]


def release_abandoned() -> list[str]:
    """Remove the placement groups of ended jobs from the Ray that this process is connected to; their ids."""
    from ray._private.state import state  # the tables of the GCS: no dashboard needed
    from ray._raylet import PlacementGroupID
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]  # made at run time
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    ended = {job["JobID"] for job in state.job_table() if job["IsDead"]}  # type: ignore[no-untyped-call]
    rows = map(PlacementGroupTableData.FromString, state._connect_and_get_accessor().get_placement_group_table())
    reservations = [
        Reservation(row.placement_group_id.hex(), row.creator_job_id.hex(), row.is_detached)
        for row in rows
        if row.state != PlacementGroupTableData.REMOVED
    ]
    released = abandoned(reservations, ended)
    for held in released:
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(held)))
    return released
