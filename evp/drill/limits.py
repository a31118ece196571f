"""The bounds of a drill."""

from __future__ import annotations

#: How long a fault has, at least, before the next one comes, seconds: what one may ask for.
DRILL_DURATION_S_MIN = 1.0
DRILL_DURATION_S_MAX = 600.0
#: Events a second, and requests a second that hold them, at most: more events make them larger.
DRILL_EPS_MAX = 50_000
DRILL_REQUESTS_PER_S = 50
#: Faults in one drill.
DRILL_TURNS_MAX = 100
#: Events and requests in one drill: each is remembered until all is looked up.
DRILL_EVENTS_MAX = 10_000_000
DRILL_REQUESTS_MAX = 1_000_000
#: Requests that are under way at a time; those that are due beyond that are sent late.
DRILL_LANES = 64
#: Without a first 202 after this no fault is made, seconds.
DRILL_START_S_MAX = 15.0
#: A process must have run for so much longer than the supervisor wants of a stable one, seconds.
DRILL_STEADY_MARGIN_S = 1.0
#: A worker is paused for so much longer than CLAIM_IDLE_MS: others look once a second.
DRILL_CLAIM_MARGIN_S = 3.0
#: After a fault, answers must be 202 again, and a killed process back, within this, seconds.
DRILL_BACK_S_MAX = 60.0
#: What was accepted before a fault was over must be settled within this after it, seconds.
DRILL_DRAINED_S_MAX = 300.0
#: How often it looks whether that is so, seconds.
DRILL_LOOK_S = 0.1
#: The helper that wakes what is paused must be ready within this, seconds.
DRILL_WAKER_S_MAX = 20.0
#: It wakes what is paused for longer than was meant, by so much: the drill itself stands still.
DRILL_WAKE_MARGIN_S = 2.0
#: So many events are looked up by `_id` at a time, and so many requests judged without a pause.
DRILL_PAGE_EVENTS = 10_000
DRILL_PAGE_REQUESTS = 10_000
#: Wrong events that are named, of each kind.
DRILL_NAMED_MAX = 20
