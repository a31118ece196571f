"""Whatever groups do, trimming takes away what all of them have done, and nothing else."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from evp.stream import trim as trimming
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.scripts import APPEND, CREATE_GROUP, TRIM, Script
from evp.stream.trim import Retention, Trimmed, trim

WORKERS = ("alpha", "beta")
FOREIGN = "reader"
ALL = 10_000
NOW = Retention(0, 0)
LONG = Retention(3600, 2**40)


class Group:
    """What one group has still to do: `needs` is all that is not acked, in order."""

    def __init__(self, present: list[str]) -> None:
        self.needs = list(present)
        self.pending: list[str] = []

    @property
    def undelivered(self) -> list[str]:
        """What it has not been given."""
        return [entry for entry in self.needs if entry not in self.pending]


class Stream:
    """A stream on a real server, and beside it what must be true of it."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.keys = Keys(f"t{secrets.token_hex(6)}")
        self.link: Link = self.wait(Link.open(url))
        self.call("SCRIPT", "LOAD", APPEND.text)
        self.present: list[str] = []
        self.groups: dict[str, Group] = {}
        self.registered: set[str] = set()

    def wait(self, what: Any) -> Any:
        """Wait for what the log answers."""
        return self.runner.run(what)

    def call(self, *command: str | int) -> Any:
        """Send one command."""
        return self.wait(self.link.call(*command))

    def append(self, count: int, *, plain: bool = False) -> None:
        """Append entries within one millisecond: their numbers get two digits."""
        keys = (self.keys.stream, self.keys.counters, self.keys.index)
        frame = ("EVALSHA", APPEND.digest, 3, *keys, 1, 1, 1, "docs", "x")
        one = ("XADD", self.keys.stream, "*", "type", "t") if plain else frame
        *_, ids = self.wait(self.link.calls([("MULTI",), *[one] * count, ("EXEC",)]))
        added = [entry.decode() for entry in ids]
        self.present += added
        for group in self.groups.values():
            group.needs += added

    def create(self, name: str) -> None:
        """Make a group as a worker does; it may have existed before."""
        names = (self.keys.stream, self.keys.groups)
        made = self.wait(self.link.script(CREATE_GROUP, names, (name,)))
        assert made == (name not in self.groups)
        self.registered.add(name)
        self.groups.setdefault(name, Group(self.present))

    def create_foreign(self, *, at_end: bool = False) -> None:
        """Make a group by hand: nobody registers it."""
        self.call("XGROUP", "CREATE", self.keys.stream, FOREIGN, "$" if at_end else "0")
        self.groups[FOREIGN] = Group([] if at_end else self.present)

    def destroy(self, name: str) -> None:
        """Lose a group."""
        self.call("XGROUP", "DESTROY", self.keys.stream, name)
        del self.groups[name]

    def read(self, name: str, count: int = ALL, *, consumer: str = "one") -> None:
        """Read what is new: it is the next that the group has to do, all of it."""
        group = self.groups[name]
        head = ("XREADGROUP", "GROUP", name, consumer, "COUNT", count)
        reply = self.call(*head, "STREAMS", self.keys.stream, ">")
        given = [entry.decode() for entry, _ in reply[0][1]] if reply else []
        assert given == group.undelivered[:count]
        group.pending += given

    def ack(self, name: str, some: list[str]) -> None:
        """Ack some of what is pending, in any order."""
        group = self.groups[name]
        if some:
            self.call("XACK", self.keys.stream, name, *some)
        group.needs = [entry for entry in group.needs if entry not in some]
        group.pending = [entry for entry in group.pending if entry not in some]

    def work(self, name: str) -> None:
        """Read and ack all there is."""
        self.read(name)
        self.ack(name, self.groups[name].pending)

    def claim(self, name: str, *, consumer: str = "two") -> None:
        """Take over what is pending: all of it is still there."""
        head = ("XAUTOCLAIM", self.keys.stream, name, consumer)
        _, rows, deleted = self.call(*head, 0, "0", "COUNT", ALL)
        assert deleted == []
        assert sorted(entry.decode() for entry, _ in rows) == sorted(self.groups[name].pending)
        mine = ("XREADGROUP", "GROUP", name, consumer, "STREAMS", self.keys.stream, "0")
        assert all(fields is not None for _, fields in self.call(*mine)[0][1])

    def trim(self, retention: Retention = NOW) -> None:
        """Trim: what anybody needs stays; without retention, all that is done goes."""
        done: Trimmed = self.wait(trim(self.link, self.keys, self.registered, retention))
        before = self.present
        self.present = [e.decode() for e, _ in self.call("XRANGE", self.keys.stream, "-", "+")]
        assert done.removed == len(before) - len(self.present)
        for group in self.groups.values():
            assert set(group.needs) <= set(self.present)
        if not self.registered or self.registered - set(self.groups) or retention == LONG:
            assert self.present == before
        else:
            needed = {entry for group in self.groups.values() for entry in group.needs}
            assert not self.present or self.present[0] in needed

    def end(self) -> None:
        """Every group finds all that it has to do; nothing is left of the stream."""
        try:
            for name in self.groups:
                self.claim(name)
                self.read(name)
        finally:
            self.remove()

    def remove(self) -> None:
        """Leave nothing behind."""
        self.call("DEL", *self.keys.all())
        self.wait(self.link.close())
        self.runner.close()


class Trimming(RuleBasedStateMachine):
    """Random schedules; `url` is set on a subclass."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.stream = Stream(self.url)

    def draw_group(self, data: st.DataObject) -> str:
        """Return one of the groups there are."""
        return data.draw(st.sampled_from(sorted(self.stream.groups)))

    @initialize(count=st.integers(0, len(WORKERS)))
    def begin(self, count: int) -> None:
        """Begin with some groups."""
        for name in WORKERS[:count]:
            self.stream.create(name)

    @rule(count=st.integers(1, 14), plain=st.booleans())
    def append(self, count: int, *, plain: bool) -> None:
        """Append frames, or plain entries."""
        self.stream.append(count, plain=plain)

    @rule(name=st.sampled_from(WORKERS))
    def create(self, name: str) -> None:
        """Make a group, perhaps again."""
        self.stream.create(name)

    @precondition(lambda self: self.stream.present and FOREIGN not in self.stream.groups)
    @rule(at_end=st.booleans())
    def create_foreign(self, *, at_end: bool) -> None:
        """Make a group that nobody registers."""
        self.stream.create_foreign(at_end=at_end)

    @precondition(lambda self: self.stream.registered)
    @rule()
    def register(self) -> None:
        """Let the store know a group that may not exist."""
        self.stream.registered.add(WORKERS[-1])

    @precondition(lambda self: len(self.stream.groups) > 1)
    @rule(data=st.data())
    def destroy(self, data: st.DataObject) -> None:
        """Lose a group."""
        self.stream.destroy(self.draw_group(data))

    @precondition(lambda self: self.stream.groups)
    @rule(data=st.data(), consumer=st.sampled_from(["one", "two"]), count=st.integers(1, 20))
    def read(self, data: st.DataObject, consumer: str, count: int) -> None:
        """Read some."""
        self.stream.read(self.draw_group(data), count, consumer=consumer)

    @precondition(lambda self: self.stream.groups)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        """Ack some of what is pending, in any order."""
        name = self.draw_group(data)
        pending = self.stream.groups[name].pending
        if pending:
            some = data.draw(st.lists(st.sampled_from(pending), min_size=1, unique=True))
            self.stream.ack(name, some)

    @precondition(lambda self: self.stream.groups)
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        """Read and ack all there is."""
        self.stream.work(self.draw_group(data))

    @precondition(lambda self: self.stream.groups)
    @rule(data=st.data(), consumer=st.sampled_from(["one", "two"]))
    def claim(self, data: st.DataObject, consumer: str) -> None:
        """Take over what is pending."""
        self.stream.claim(self.draw_group(data), consumer=consumer)

    @rule(retention=st.sampled_from([NOW, NOW, Retention(0, 2**40), Retention(3600, 0), LONG]))
    def trim(self, retention: Retention) -> None:
        """Trim."""
        self.stream.trim(retention)

    def teardown(self) -> None:
        """Look whether everything is still there."""
        self.stream.end()


@pytest.mark.slow
def test_only_what_is_done_is_trimmed(log_url: str) -> None:
    """No entry that a registered or existing group has not acked goes; all others do."""
    machine = type("OnServer", (Trimming,), {"url": log_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def one_is_left(stream: Stream) -> None:
    """A group has read all and acked all but one."""
    stream.create("alpha")
    stream.append(12)
    stream.read("alpha")
    stream.ack("alpha", stream.present[:5] + stream.present[6:])
    stream.trim()


def none_is_read(stream: Stream) -> None:
    """A group has nothing pending, and has not read everything."""
    stream.create("alpha")
    stream.append(5)
    stream.read("alpha", 3)
    stream.ack("alpha", stream.present[:3])
    stream.trim()


def a_foreign_group_is_behind(stream: Stream) -> None:
    """Somebody else reads too, and is slower."""
    stream.create("alpha")
    stream.append(5)
    stream.create_foreign()
    stream.work("alpha")
    stream.trim()


def a_group_is_lost(stream: Stream) -> None:
    """One of two groups is gone, and comes back at the beginning."""
    stream.create("alpha")
    stream.create("beta")
    stream.append(5)
    stream.work("alpha")
    stream.destroy("beta")
    stream.trim()
    stream.create("beta")
    stream.work("beta")
    stream.trim()


def the_log_forgot_a_group(stream: Stream) -> None:
    """Only the store knows of one of two groups."""
    stream.create("alpha")
    stream.append(5)
    stream.registered.add("beta")
    stream.work("alpha")
    stream.trim()


def one_of_two_is_slower(stream: Stream) -> None:
    """Two groups, one of which has done everything."""
    stream.create("alpha")
    stream.create("beta")
    stream.append(5)
    stream.work("beta")
    stream.trim()


def nobody_is_registered(stream: Stream) -> None:
    """There is only a group of somebody else's: the workers' one may be still to come."""
    stream.append(5)
    stream.create_foreign()
    stream.work(FOREIGN)
    stream.trim()


def what_is_done_is_kept(stream: Stream) -> None:
    """All is done a moment ago."""
    stream.create("alpha")
    stream.append(5)
    stream.work("alpha")
    stream.trim(LONG)


RULES: dict[str, tuple[str, str, Callable[[Stream], None]]] = {
    "one too far": (
        "local target, more = pin.floor, 0",
        "local target, more = successor(pin.floor), 0",
        one_is_left,
    ),
    "pending is left out": (
        "if pending and before(pending[1], floor) then",
        "if false then",
        one_is_left,
    ),
    "undelivered is left out": (
        "successor(group['last-delivered-id'])",
        "'18446744073709551615-0'",
        none_is_read,
    ),
    "whole nodes only": ("+ redis.call('XTRIM', key, 'MINID', id)", "", one_is_left),
    "foreign groups are left out": (
        "    found[#found + 1] = {name = group.name",
        "    found[registered[group.name] and #found + 1 or 'none'] = {name = group.name",
        a_foreign_group_is_behind,
    ),
    "lost groups are left out": (
        "for name in pairs(registered) do",
        "for name in pairs({}) do",
        a_group_is_lost,
    ),
    "the store's names are left out": (
        "for i = 5, #ARGV do",
        "for i = 5, 4 do",
        the_log_forgot_a_group,
    ),
    "the fastest group decides": (
        "return before(a.floor, b.floor)",
        "return before(b.floor, a.floor)",
        one_of_two_is_slower,
    ),
    "nobody needs to be registered": ("or not next(names)", "", nobody_is_registered),
    "nothing is retained": (
        "if allowed > 0 and retention_ms > 0 then",
        "if false then",
        what_is_done_is_kept,
    ),
}
"""A rule of the script, what takes it away, and a schedule that needs it."""


@pytest.fixture
def make(log_url: str) -> Iterator[Callable[[], Stream]]:
    """Makes streams; they are removed afterwards."""
    made: list[Stream] = []

    def make_one() -> Stream:
        made.append(Stream(log_url))
        return made[-1]

    yield make_one
    for stream in made:
        stream.remove()


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_needed(
    make: Callable[[], Stream], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script passes this schedule, and without one of its rules it does not."""
    rule_text, without, schedule = RULES[name]
    schedule(make())
    assert TRIM.text.count(rule_text) == 1
    monkeypatch.setattr(trimming, "TRIM", Script(TRIM.text.replace(rule_text, without)))
    with pytest.raises(AssertionError):
        schedule(make())
