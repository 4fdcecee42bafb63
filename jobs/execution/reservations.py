"""Machines that Ray holds for jobs that have ended, and giving them back.

A start's workers compute in a placement group: CPUs and GPUs that Ray reserves on their machines. Ray removes it when
the job has ended and the actor that made it has died. The death of that actor it keeps in memory only: when the head's
Ray dies in the moment between the two (out of memory kills one process after the other), it comes back without knowing,
and holds the machines for ever (Ray 2.60, seen).
"""

import sys
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


def release_abandoned() -> None:
    """Remove the placement groups of ended jobs from the head's Ray, to which this process has just connected.

    Only there: a head comes back with all of its drivers gone.
    """
    from ray._raylet import PlacementGroupID
    from ray.exceptions import RayError
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    try:
        released = abandoned(*_reservations())
        for held in released:
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(held)))
    except RayError as error:
        print(f"what ended jobs hold could not be given back: {error}", file=sys.stderr, flush=True)
        return
    if released:
        print(f"gave back what {len(released)} start(s) of ended jobs still held", file=sys.stderr, flush=True)


def _reservations() -> tuple[list[Reservation], set[str]]:
    """The placement groups that are there, and the ids of ended jobs."""
    from ray._private.state import state  # the tables of the GCS: no dashboard needed
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]  # made at run time

    ended = {job["JobID"] for job in state.job_table() if job["IsDead"]}  # type: ignore[no-untyped-call]
    rows = map(PlacementGroupTableData.FromString, state._connect_and_get_accessor().get_placement_group_table())
    there = [
        Reservation(row.placement_group_id.hex(), row.creator_job_id.hex(), row.is_detached)
        for row in rows
        if row.state != PlacementGroupTableData.REMOVED
    ]
    return there, ended
