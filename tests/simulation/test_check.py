"""The checks of a simulation can tell: each complains of what is planted for it, and of no more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from copy import deepcopy
from random import Random

import bson
import pytest
from bson import Binary

from evp.clock import from_ms
from evp.storage.schema import EVENTS, SERVERS
from evp.verify.report import Finding, Kind, Report, Scope
from tests.simulation.book import Entry
from tests.simulation.check import Check
from tests.simulation.events import GOOD
from tests.simulation.faults import Chances
from tests.simulation.simulation import Simulation
from tests.simulation.store import Row
from tests.simulation.world import World


@contextlib.contextmanager
def _world(*, workers: bool) -> Iterator[World]:
    """Give a world in which all is well, and some events were accepted."""
    with Simulation(1, Random(1), Chances(), [GOOD], forgets=True) as simulation:
        world = simulation.world
        simulation.act(world.start_server)
        if workers:
            simulation.act(world.start_worker)
        simulation.pass_time(1.0)
        for _ in range(4):
            simulation.act(world.submit)
            simulation.pass_time(3.0)
        assert len(world.book.accepted) >= 4
        yield world


def _said_of(world: World, *findings: Finding, at_rest: bool = True) -> list[str]:
    """Return the rules that are broken if `evp verify` says this."""
    report = _report(*findings)
    Check(world).findings(report, at_rest=at_rest)
    return [one.rule for one in world.book.violations]


def _report(*findings: Finding) -> Report:
    scope = Scope(every_document=True)
    began_at = from_ms(0)
    return Report(stream="s", database="d", scope=scope, began_at=began_at, findings=list(findings))


def _hole(entry: Entry, *, more: int = 0) -> Finding:
    srv, seq = entry.numbers
    numbers = {"srv": srv.hex(), "first_seq": seq, "last_seq": seq + more}
    return Finding(kind=Kind.HOLE, key="k", meaning="m", **numbers)  # type: ignore[arg-type]


def test_a_hole_that_is_one_may_be_told() -> None:
    """What the log forgot before a worker read it is a hole, and may be called one."""
    with _world(workers=False) as world:
        world.flush()
        assert _said_of(world, _hole(world.book.entries[-1])) == []


def test_a_hole_where_nothing_ever_was_is_false() -> None:
    """A hole of an epoch that never was, or of numbers that no frame had, is a false finding."""
    with _world(workers=False) as world:
        world.flush()
        entry = world.book.entries[-1]
        assert _said_of(world, _hole(entry, more=2)) == ["false finding"]
        nobody = Finding(
            kind=Kind.HOLE, key="k", meaning="m", srv="00" * 8, first_seq=7, last_seq=9
        )
        assert set(_said_of(world, nobody)) == {"false finding"}
        assert len(world.book.violations) > 1


def test_a_hole_that_the_log_still_has_is_false() -> None:
    """A frame that nobody has forgotten is not lost."""
    with _world(workers=False) as world:
        assert _said_of(world, _hole(world.book.entries[-1])) == ["false finding"]


def test_a_hole_whose_events_are_stored_is_false() -> None:
    """A frame that is written is not lost, although the log has forgotten it since."""
    with _world(workers=True) as world:
        entry = world.book.entries[0]
        entry.is_lost = True
        assert _said_of(world, _hole(entry), at_rest=False) == []
        assert _said_of(world, _hole(entry)) == ["false finding"]


def test_an_entry_that_never_was_is_no_lost_one() -> None:
    """A frame id that no entry had is a false finding."""
    with _world(workers=True) as world:
        nobody = Finding(kind=Kind.ENTRY_LOST, key="k", meaning="m", frame_id="0" * 24)
        assert _said_of(world, nobody) == ["false finding"]


@pytest.mark.parametrize("is_lowered", [False, True], ids=["as it is", "lowered"])
def test_a_loss_that_verify_does_not_tell_is_missed(*, is_lowered: bool) -> None:
    """What was recorded once must be told when it is lost, also if its record says less now."""
    with _world(workers=False) as world:
        assert world.store.rows[SERVERS]
        world.flush()
        if is_lowered:
            for row in world.store.table(SERVERS).values():
                row.document["seq"] = 0
        Check(world).nothing_missed(_report(), world.book.reached())
        assert {one.rule for one in world.book.violations} == {"missed"}


def test_documents_that_nobody_sent_are_found() -> None:
    """A document with other contents than were sent is no event of a client."""
    with _world(workers=True) as world:
        row = next(iter(world.store.table(EVENTS).values()))
        row.document["data"] = {"content": 99}
        Check(world).all()
        assert "unexpected" in {one.rule for one in world.book.violations}


def test_what_was_refused_must_not_be_stored() -> None:
    """An event whose every answer was a refusal, and which is stored, is one too many."""
    with _world(workers=True) as world:
        assert world.book.violations == []
        sent = world.book.accepted[0].sent
        world.book.refused([sent] * world.book.taken[sent])
        Check(world).all()
        assert "unexpected" in {one.rule for one in world.book.violations}


def test_an_event_in_two_documents_is_found() -> None:
    """Two documents of one event are found by what the client said of it, whatever their ids."""
    with _world(workers=True) as world:
        table = world.store.table(EVENTS)
        document = deepcopy(next(iter(table.values())).document)
        document["_id"] = Binary(bytes(16), 4)
        table[document["_id"]] = Row(bson.encode(document))
        Check(world).all()
        assert "twice" in {one.rule for one in world.book.violations}
