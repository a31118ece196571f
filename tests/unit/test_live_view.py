"""The live view: every screen is filled and holds what matters, whatever its size and contents."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from evp.balance import Balance
from evp.cli.looking import is_full_terminal
from evp.cli.output import Output
from evp.cli.steering import press
from evp.clock import from_ms
from evp.history import History, Sample
from evp.limits import FILTER_CHARS_MAX, HISTORY_LOOKS_MAX, HISTORY_S
from evp.state import LogState, StoreState
from evp.stats import Latency, Rates, Stats, Summed
from evp.storage.account import Totals
from evp.storage.workers import WorkerRow
from evp.stream.info import ConsumerFacts, GroupFacts, LogFacts
from evp.views import units
from evp.views.live import Away, LiveView, Picture, Steering
from evp.views.sparkline import bar, last_minute, sparkline
from evp.views.stats import render
from evp.views.stats_parts import Seen

GROUP = "evp-workers-group"
SIZES = [(80, 24), (60, 24), (160, 50), (160, 24), (40, 12), (20, 5)]
UNTIL_S = 1_000.0


def worker(number: int, **changes: object) -> WorkerRow:
    """Return a worker; the higher its number, the more it does."""
    row = WorkerRow(
        name=f"evp-worker-7c9d5b7c4-x8k2p-{number}",
        group=GROUP,
        host="node",
        pid=100 + number,
        seen_s=1.2,
        stored_per_s=1_000.0 + number,
        duplicate_per_s=0.0,
        dead_per_s=0.0,
        batch_events=512.0,
        write_ms=12.3,
        rss_bytes=(100 - number) * 2**20,
    )
    for name, value in changes.items():
        setattr(row, name, value)
    return row


def group(name: str, **changes: object) -> GroupFacts:
    """Return a group."""
    facts = GroupFacts(
        name, pending=1, pending_events=500, lag_events=34_000, lag_s=3.2, consumers=[]
    )
    for key, value in changes.items():
        setattr(facts, key, value)
    return facts


def stats(workers: int = 3, groups: int = 1) -> Stats:
    """Return a look with so many workers and groups."""
    names = [GROUP, *(f"readers-{number}" for number in range(1, groups))]
    return Stats(
        stream="evp:events",
        group=GROUP,
        log=LogFacts(300, 2**28, 12_345_678, 40, 100, 2_000_000, list(map(group, names)), 0),
        rates=Rates(12_345.0, 9_800.0, 0.0, 0.5),
        log_state=LogState("valkey 9.1.2", 400 * 2**20, 1_200 * 2**20, "fsync"),
        store_state=StoreState("8.0.4", 0.82),
        workers=[worker(number) for number in range(workers)],
        latency_ms=Latency(120, 412, 1_234),
        totals=Totals(12_300_000, 5, 1, 38),
        balance=Balance(
            at=from_ms(0),
            accepted=12_345_678,
            unknown=0,
            source="log",
            stored=12_300_000,
            duplicate=512,
            dead=3,
            in_log=45_163,
            external=0,
            acknowledged=0,
            unaccounted=0,
            unaccounted_max=0,
        ),
        summed=Summed(0.1, 12_346_100, 45_597),
    )


def picture(shown: Stats, *, away: Away | None = None, steering: Steering | None = None) -> Picture:
    """Return a picture of a look that was preceded by a minute of the like."""
    history = History()
    samples: list[Sample] = []
    for second in range(61):
        samples = history.add(shown, UNTIL_S - 60 + second)
    seen = Seen(shown, samples, UNTIL_S)
    return Picture(seen, from_ms(0), 0.3, 1.0, away, steering or Steering())


def screen(shown: Picture, columns: int = 80, rows: int = 24) -> list[str]:
    """Return the lines of a screen, each padded to its width."""
    console = Console(file=io.StringIO(), width=columns, height=rows)
    lines = console.render_lines(LiveView(shown), console.options.update(height=rows))
    return ["".join(segment.text for segment in line) for line in lines]


def coloured(shown: Picture, *, no_color: bool = False) -> str:
    """Return what a terminal would get."""
    file = io.StringIO()
    options = {"force_terminal": True, "color_system": "256", "no_color": no_color}
    Console(file=file, width=80, height=24, **options).print(LiveView(shown))  # type: ignore[arg-type]
    return file.getvalue()


def words(shown: Picture, columns: int = 80, rows: int = 24) -> list[str]:
    """Return all words on a screen, in their order."""
    return " ".join(screen(shown, columns, rows)).split()


@pytest.mark.parametrize(("columns", "rows"), SIZES)
@pytest.mark.parametrize("crowd", [0, 3, 200])
def test_every_screen_is_filled(columns: int, rows: int, crowd: int) -> None:
    """A screen has all its lines, none is too long, and the last one tells the keys."""
    shown = screen(picture(stats(crowd, max(1, crowd // 10))), columns, rows)
    assert len(shown) == rows
    assert max(map(len, shown)) <= columns
    assert shown[0].startswith(" evp stats")
    assert shown[-1].startswith("q quit")


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (60, 24), (160, 50)])
def test_what_matters_is_there(columns: int, rows: int) -> None:
    """Rates, totals, lag, workers, latency, engines: uncut, with their units."""
    shown = stats()
    shown.log.groups[0].drain_s = 14.0
    found = words(picture(shown), columns, rows)
    for word in (
        "12.3k/s", "9.80k/s", "0.5/s", "12,346,100", "12,300,000", "45,597", "34,500",
        "34,000", "3.2", "14",
        "1.00k/s", "120", "412", "1.2", "9.1.2", "fsync", "400", "33%", "8.0.4", "0.8",
        "MiB", "adds", GROUP, "evp-worker-7c9d5b7c4-x8k2p-2",
    ):  # fmt: skip
        assert word in found, word
    assert not any("…" in word for word in found)


def test_a_wide_screen_tells_more() -> None:
    """Wider: peaks, hosts, processes and what each holds; higher: charts of several lines."""
    narrow, wide = (words(picture(stats()), *size) for size in ((80, 24), (160, 50)))
    for word in ("peak", "host", "pid", "duplicate"):
        assert wide.count(word) == narrow.count(word) + 1, word
    blocks = [len([word for word in shown if "█" in word]) for shown in (narrow, wide)]
    assert blocks[1] >= blocks[0] + 6


def test_more_than_fits_is_counted() -> None:
    """Of many groups and workers as many are shown as fit, and how many there are more."""
    shown = screen(picture(stats(200, 30)))
    more = [int(found[1]) for line in shown if (found := re.match(r"and (\d+) more", line))]
    named = [line for line in shown if line.startswith("evp-worker-")]
    assert len(more) == 2
    assert more[1] + len(named) == 200
    assert len(named) >= 4
    assert any(line.startswith("30 groups") for line in shown)


def test_sorting() -> None:
    """The key goes through name, rate, lag and memory; what is most comes first."""
    shown, steering = stats(3, 2), Steering()
    shown.log.groups[1].lag_events = 90_000
    shown.log.groups[0].consumers = [
        ConsumerFacts("evp-worker-7c9d5b7c4-x8k2p-1", pending=7, idle_ms=0)
    ]
    firsts = {}
    for _ in range(4):
        found = screen(picture(shown, steering=steering), 160)
        lines = [line.split()[0] for line in found if line.strip()]
        groups = [line for line in lines if line in {GROUP, "readers-1"}]
        workers = [line[-1] for line in lines if line.startswith("evp-worker-")]
        firsts[steering.order] = (groups[0], workers[0])
        press(steering, "s")
    assert steering.order == "name"
    assert firsts == {
        "name": (GROUP, "0"),
        "rate": (GROUP, "2"),
        "lag": ("readers-1", "1"),
        "memory": (GROUP, "0"),
    }


def test_filter() -> None:
    """Only groups and workers with the text in their names are shown, in whatever case."""
    found = "\n".join(screen(picture(stats(12, 3), steering=Steering(filter="X8K2P-11"))))
    assert "12 workers, 1 shown" in found
    assert "x8k2p-11" in found
    assert "x8k2p-10" not in found
    assert "3 groups, 0 shown" in found
    assert "filter: X8K2P-11" in found


def test_typing_a_filter() -> None:
    """What is typed is a text, not keys; it has an end, and can be taken back."""
    steering = Steering()
    for key in "/qs? x":
        assert press(steering, key)
    assert (steering.filter, steering.order, steering.is_help) == ("qs? x", "name", False)
    press(steering, "\x7f")
    press(steering, "\n")
    assert (steering.filter, steering.is_typing) == ("qs? ", False)
    for key in "/" + "y" * 2 * FILTER_CHARS_MAX:
        press(steering, key)
    assert len(steering.filter) == FILTER_CHARS_MAX
    press(steering, "esc")
    assert (steering.filter, steering.is_typing) == ("", False)
    assert not press(steering, "q")


def test_help_fits() -> None:
    """The page of help explains each key and each word, at 80 columns by 24 lines."""
    steering = Steering()
    press(steering, "?")
    shown = screen(picture(stats(), steering=steering))
    for word in ("space", "balance", "drains in", "heard"):
        assert any(line.startswith(word) for line in shown), word
    assert not any("…" in line for line in shown)
    press(steering, "q")
    assert not steering.is_help


def test_paused() -> None:
    """Whoever has stopped the view is told so."""
    assert "PAUSED" in words(picture(stats(), steering=Steering(is_paused=True)))


def test_log_away() -> None:
    """It is said since when and why, what was seen last stays, and is dim."""
    away = Away(from_ms(0), 75.0, "can't reach the log at redis://host:6379/0: refused")
    found = picture(stats(), away=away)
    assert "the log is away since 00:00:00Z, for 75 s: can't reach" in " ".join(words(found))
    assert "redis://host:6379/0: refused" in " ".join(words(found))
    assert "12.3k/s" in words(found)
    assert re.search(r"\x1b\[2m[^\x1b]*valkey", coloured(found))
    assert not re.search(r"\x1b\[2m[^\x1b]*valkey", coloured(picture(stats())))


def test_store_away() -> None:
    """What only the store knows is not shown as zero, and it is said what is wrong."""
    shown = stats(0)
    shown.store_state, shown.latency_ms = None, None
    shown.store_error = "the store did not answer within 5 s"
    lines = [" ".join(line.split()) for line in screen(picture(shown))]
    assert any(line.startswith("stored - 12,300,000") for line in lines)
    assert "store away" in lines
    assert "latency not known" in lines
    assert shown.store_error in lines


def test_wrong_durability() -> None:
    """A log that would lose what it acknowledges is told, with the mend."""
    shown = stats()
    shown.log_state.durability, shown.log_state.detail = "", "appendonly is no: set it to yes"
    found = " ".join(words(picture(shown)))
    assert "not durable" in found
    assert "appendonly is no: set it to yes" in found


@pytest.mark.parametrize(
    ("change_per_s", "drain_s", "waiting", "told"),
    [
        (-50.0, 12.0, 10, "12 s"),
        (50.0, None, 10, "growing"),
        (0.0, None, 10, "no less"),
        (None, None, 10, "?"),
        (0.0, 0.0, 0, "-"),
    ],
)
def test_time_to_drain(
    change_per_s: float | None, drain_s: float | None, waiting: int, told: str
) -> None:
    """A group gets less, more, or neither; or nothing waits for it, or nobody knows yet."""
    shown = stats()
    [one] = shown.log.groups
    one.change_per_s, one.drain_s, one.pending_events, one.lag_events = (
        change_per_s,
        drain_s,
        0,
        waiting,
    )
    [line] = [line for line in screen(picture(shown)) if line.startswith(GROUP)]
    assert line.rstrip().endswith(f" {told}")


def test_a_group_that_keeps_up() -> None:
    """What waits for a moment only is no backlog, whether it is more or less than before."""
    shown = stats()
    shown.log.groups[0].lag_s, shown.log.groups[0].change_per_s = 0.4, 90.0
    [line] = [line for line in screen(picture(shown)) if line.startswith(GROUP)]
    assert line.rstrip().endswith("keeps up")


def test_a_group_that_is_stuck() -> None:
    """That its oldest entry does not move matters more than what is behind it."""
    shown = stats()
    shown.log.groups[0].stuck, shown.log.groups[0].drain_s = True, 1.2
    [line] = [line for line in screen(picture(shown)) if line.startswith(GROUP)]
    assert line.rstrip().endswith("stuck")


def test_totals_are_of_one_moment() -> None:
    """What was summed some time ago is told to be, and what belongs to it is of that time."""
    shown = stats()
    shown.summed = Summed(8.4, 12_000_000, 7)
    shown.balance, shown.log.events_accepted = None, 13_000_000
    lines = [" ".join(line.split()) for line in screen(picture(shown))]
    assert any(line.startswith("accepted 12.3k/s 12,000,000 ") for line in lines)
    assert any(line.startswith("in the log 34,500 7 ") for line in lines)
    shown.balance = stats().balance
    shown.summed.age_s = 48.4
    lines = [" ".join(line.split()) for line in screen(picture(shown))]
    told = "balance added up 48 s ago: accepted = stored + duplicate + dead + in the log"
    assert told in lines


def test_silent_workers_and_other_readers() -> None:
    """Who does not speak any more is marked; who never does is told by when it read."""
    shown = stats(0)
    shown.workers = [worker(1, silent=True, seen_s=23.0)]
    shown.log.groups[0].consumers = [ConsumerFacts("somebody", pending=2, idle_ms=99_000)]
    found = "\n".join(screen(picture(shown)))
    assert re.search(r"x8k2p-1 .* silent 23 s", found)
    assert re.search(r"somebody .* read 99 s", found)


def test_names_are_text() -> None:
    """No name of a group, worker or stream reaches the terminal as a command, or as markup."""
    shown = stats(0)
    shown.stream = "s\x1b]0;title\x07"
    shown.log.groups = [group("\x1b[31m[bold]g\n", consumers=[ConsumerFacts("\x9b2J", 1, 0)])]
    shown.workers = [worker(1, name="[red]w[/red]\r", host="\x1b[2J")]
    found = "\n".join(screen(picture(shown), 160, 50))
    assert not set("\x1b\x07\x9b\r") & set(found)
    for text in (r"\x1b[31m[bold]g\n", r"[red]w[/red]\r", r"\x9b2J", r"s\x1b]0;title\x07"):
        assert text in found, text


def test_long_names_keep_their_ends() -> None:
    """Workers of one deployment differ in the ends of their names."""
    shown = stats(0)
    shown.workers = [worker(number, name=f"{'x' * 200}-{number}") for number in (1, 2)]
    lines = [line.split()[0] for line in screen(picture(shown), 60) if line.startswith("…")]
    assert [line[-2:] for line in lines] == ["-1", "-2"]


def test_no_colours() -> None:
    """Without colours the same words are there."""
    colour = re.compile(r"\x1b\[[\d;]*3\d[\d;]*m")
    assert colour.search(coloured(picture(stats())))
    assert not colour.search(coloured(picture(stats()), no_color=True))


@pytest.mark.parametrize(
    ("term", "encoding"), [("dumb", "utf-8"), ("unknown", "utf-8"), ("xterm", "latin-1")]
)
def test_terminals_that_are_not_drawn_on(term: str, encoding: str) -> None:
    """Some know no places or no block characters: they get looks, one after the other."""
    assert not is_full_terminal(output_to(term, encoding))
    assert is_full_terminal(output_to("xterm", "utf-8"))


def test_other_charsets() -> None:
    """What a terminal has no character for is a question mark, and no error."""
    shown, output = stats(), output_to("xterm", "latin-1")
    shown.workers = [worker(1, name="wörker-☃")]
    output.replace_unknown()
    output.print(render(shown))
    assert "wörker-?" in output.file.buffer.getvalue().decode("latin-1")  # type: ignore[attr-defined]


def output_to(term: str, encoding: str) -> Output:
    """Return standard output as it were on such a terminal."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    return Output(file=file, force_terminal=True, _environ={"TERM": term})


def test_history_is_bounded() -> None:
    """It forgets what is older than a minute, and has a most whatever the pace."""
    history, kept = History(), 0
    for look in range(2 * HISTORY_LOOKS_MAX):
        kept = len(history.add(stats(), look / 1_000))
    assert kept == HISTORY_LOOKS_MAX
    assert len(history.add(stats(), 10_000.0)) == 1


def test_history_has_gaps() -> None:
    """Nothing is told of a time that nobody saw, nor of what the store did not tell."""
    history, blind = History(), stats()
    blind.store_error = "away"
    assert history.add(stats(), 0.0) == []
    history.add(blind, 10.0)
    history.interrupt()
    history.add(stats(), 30.0)
    samples = history.add(stats(), 60.0)
    accepted = last_minute(samples, lambda one: one.accepted_per_s, 6, 60.0)
    stored = last_minute(samples, lambda one: one.stored_per_s, 6, 60.0)
    assert accepted == [12_345.0, None, None, 12_345.0, 12_345.0, 12_345.0]
    assert stored == [None, None, None, 9_800.0, 9_800.0, 9_800.0]


def test_charts_keep_their_shape() -> None:
    """A second later a chart has moved, or not, but no column in it has changed."""
    samples = [
        Sample(at, at + 1.0, at % 7.0, None, None, None, None) for at in range(int(HISTORY_S))
    ]
    columns = 20
    before = last_minute(samples, lambda one: one.accepted_per_s, columns, HISTORY_S)
    samples.append(Sample(HISTORY_S, HISTORY_S + 1, 99.0, None, None, None, None))
    after = last_minute(samples, lambda one: one.accepted_per_s, columns, HISTORY_S + 1)
    assert after[:-1] == before[1:]


def test_sparkline() -> None:
    """The highest is at the top, zero is seen, little is more than zero, unknown is nothing."""
    assert sparkline([None, 0.0, 0.01, 50.0, 100.0]) == [" ▁▂▄█"]
    assert sparkline([0.0, 50.0, 100.0], rows=2) == ["  █", "▁██"]
    assert sparkline([0.0, 0.0]) == ["▁▁"]
    assert sparkline([]) == [""]


def test_bar() -> None:
    """What is more than nothing is seen; what is too much is a full bar."""
    assert bar(0.0, 4) == ("", "░░░░")
    assert bar(0.001, 4) == ("█", "░░░")
    assert bar(2.0, 4) == ("████", "")


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (units.rate(0), "0/s"), (units.rate(9.94), "9.9/s"), (units.rate(9.96), "10/s"),
        (units.rate(999.4), "999/s"), (units.rate(999.6), "1.00k/s"),
        (units.rate(12_345), "12.3k/s"), (units.rate(999_600), "1.00M/s"),
        (units.change(-1_234), "-1.23k/s"), (units.change(5), "+5.0/s"),
        (units.count(99_999), "99,999"), (units.count(123_456), "123k"),
        (units.count(9_999_999), "10.0M"), (units.count(4e12), "4.00T"),
        (units.size(0), "0 B"), (units.size(1023.6), "1.00 KiB"),
        (units.size(3 * 2**20), "3.00 MiB"), (units.size(5 * 2**50), "5120 TiB"),
        (units.milliseconds(0.84), "0.8 ms"), (units.milliseconds(12.3), "12 ms"),
        (units.milliseconds(1_234), "1.2 s"), (units.seconds(119), "119 s"),
        (units.seconds(600), "10 min"), (units.seconds(7_200), "2 h"),
        (units.seconds(400_000), "5 d"),
    ],
)  # fmt: skip
def test_units(told: str, wanted: str) -> None:
    """Numbers have three digits or so, and their unit."""
    assert told == wanted
