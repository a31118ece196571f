"""The checker of the fault runs finds every kind of violation; a clean run passes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kit import history
from tests.faults.kit.checker import (
    DRAINED_S_MAX,
    FIRST_OK_S_MAX,
    Counters,
    check,
    check_counters,
    check_liveness,
    quantile_s,
)
from tests.faults.kit.history import Answer, History, Invoke, Log, Record, Seen, content_digest

OK, FAIL, INFO = "ok", "fail", "info"


def digest(text: str) -> bytes:
    """Return the digest of an event that holds a text."""
    return content_digest("t", "s", {"text": text})


def told(*requests: tuple[int, str, str | None]) -> History:
    """Return a history of single events: number, content, and what each was told."""
    records: list[Record] = []
    for number, (event, content, verdict) in enumerate(requests):
        records.append(Invoke(number, float(number), "c", event, digest(content)))
        if verdict is not None:
            records.append(Answer(number, number + 0.5, verdict))
    return history.read(records)


SENT = told(
    (1, "one", OK),
    (2, "two", INFO),
    (2, "two", OK),
    (3, "three", FAIL),
    (4, "four", INFO),
    (5, "five", None),
    (6, "six", OK),
    (6, "another six", OK),
    (7, "seven", FAIL),
    (7, "seven", INFO),
)
STORED = [("c-1", digest("one")), ("c-2", digest("two")), ("c-4", digest("four"))]
STORED += [("c-6", digest("six"))]
DEAD = ["c-6"]


def test_clean_run() -> None:
    """What was accepted is stored, what is unknown may be, what was refused is not."""
    found = check(SENT, STORED, DEAD)
    assert found.clean, (found.wrong, found.complaints)
    assert (found.recovered, found.not_recovered) == (1, 2)
    assert found.sizes == {
        "A invoked": 7,
        "K accepted": 3,
        "F refused": 1,
        "U unknown": 3,
        "S stored": 4,
        "D dead letters": 1,
        "conflicts sent": 1,
    }


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("lost", {"without": "c-1"}),
        ("lost", {"without": "c-2"}),
        ("lost_to_dlq", {"without": "c-1", "dead": ["c-1"]}),
        ("lost_to_dlq", {"dead": ["c-4"]}),
        ("duplicated", {"more": [("c-1", digest("one"))]}),
        ("duplicated", {"more": [("c-4", digest("four"))]}),
        ("duplicated", {"more": [("c-6", digest("another six"))]}),
        ("duplicated", {"dead": ["c-2"]}),
        ("unexpected", {"more": [("c-9", digest("nine"))]}),
        ("unexpected", {"dead": ["c-9"]}),
        ("refused_but_stored", {"more": [("c-3", digest("three"))]}),
        ("refused_but_stored", {"dead": ["c-3"]}),
        ("corrupted", {"without": "c-1", "more": [("c-1", digest("two"))]}),
        ("conflict_not_kept", {"without": "c-6"}),
        ("conflict_not_kept", {"alive": ["c-6"]}),
    ],
)
def test_violation_is_found(kind: str, changes: dict[str, Any]) -> None:
    """Whatever was planted is in the set that is made for it."""
    stored = [pair for pair in STORED if pair[0] != changes.get("without")]
    stored += changes.get("more", [])
    dead = set(DEAD) | set(changes.get("dead", []))
    found = check(SENT, stored, dead - set(changes.get("alive", [])))
    assert found.wrong[kind], found.wrong
    assert not found.clean


def test_seen_must_stay() -> None:
    """An event that was once found in the store must be found again."""
    sent = history.read(
        [
            Invoke(1, 0.0, "c", 1, digest("one")),
            Answer(1, 1.0, OK),
            Seen("c-1", 1.0, 1.5),
            Invoke(2, 0.0, "c", 2, digest("two")),
            Answer(2, 1.0, INFO),
            Seen("c-2", 1.0, 3.0),
        ]
    )
    assert check(sent, [("c-1", digest("one")), ("c-2", digest("two"))], []).stale_s == [0.5, 2.0]
    assert check(sent, [("c-1", digest("one"))], []).wrong["seen_and_gone"] == {"c-2"}


@pytest.mark.parametrize(
    ("counters", "complaints"),
    [
        (Counters(4, 1, 1, 6, 6), 0),
        (Counters(4, 1, 1, 6, None), 0),
        (Counters(4, 1, 1, 6, 7), 1),
        (Counters(5, 0, 1, 6, 6), 1),
        (Counters(4, 0, 2, 6, 6), 1),
        (Counters(4, 2, 1, 6, 6), 1),
        (Counters(4, 1, 1, 7, 7), 1),
    ],
)
def test_account_must_add_up(counters: Counters, complaints: int) -> None:
    """The numbers of evp itself are those of the documents and letters, and fit each other."""
    assert len(check_counters(counters, documents=4, letters=1)) == complaints


@pytest.mark.parametrize(
    ("first_s", "drained_s", "complaints"),
    [
        (1.0, 10.0, 0),
        (FIRST_OK_S_MAX + 1, 30.0, 1),
        (1.0, DRAINED_S_MAX + 1, 1),
        (None, None, 2),
    ],
)
def test_liveness(first_s: float | None, drained_s: float | None, complaints: int) -> None:
    """What comes back too late, or never, is told; what was before the healing doesn't count."""
    healed_s = 100.0
    oks = [99.0] if first_s is None else [99.0, healed_s + first_s]
    drained_at_s = None if drained_s is None else healed_s + drained_s
    assert len(check_liveness(oks, healed_s, drained_at_s)) == complaints


@pytest.mark.parametrize(
    ("status", "code", "verdict"),
    [
        (202, "", OK),
        (422, "invalid_event", FAIL),
        (429, "rate_limited", FAIL),
        (503, "backlog_full", FAIL),
        (503, "log_not_durable", FAIL),
        (503, "ack_unknown", INFO),
        (503, "log_unavailable", INFO),
        (500, "internal_error", INFO),
        (408, "request_timeout", INFO),
        (0, "", INFO),
    ],
)
def test_verdict(status: int, code: str, verdict: str) -> None:
    """Only what promises that nothing was written is a refusal."""
    assert history.verdict_of(status, code) == verdict


async def test_log_is_read_back(tmp_path: Path) -> None:
    """Invocations written at once are all there afterwards; a torn end is left out."""
    path = tmp_path / "clients.log"
    log = Log(path)
    invokes = [Invoke(n, 0.0, "c", n, digest(str(n))) for n in range(50)]
    await asyncio.gather(*(log.invoke(one) for one in invokes))
    assert list(history.records(path)) == invokes
    log.note(Answer(1, 1.0, OK))
    log.close()
    assert len(list(history.records(path))) == 51
    path.write_bytes(path.read_bytes()[:-1])
    assert len(list(history.records(path))) == 50


def test_digest_ignores_the_order_of_keys() -> None:
    """Two orders are one content; another value, type or subject is another."""
    one = content_digest("t", "s", {"a": 1, "b": {"c": 2, "d": 3}})
    assert one == content_digest("t", "s", {"b": {"d": 3, "c": 2}, "a": 1})
    assert one != content_digest("t", "s", {"a": 1, "b": {"c": 2, "d": 4}})
    assert one != content_digest("t", "r", {"a": 1, "b": {"c": 2, "d": 3}})


def test_quantiles() -> None:
    """The last one is the maximum."""
    assert quantile_s([], 0.5) == 0
    assert quantile_s([1.0, 2.0, 3.0, 4.0], 0.5) == 3
    assert quantile_s([1.0, 2.0, 3.0, 4.0], 1.0) == 4
