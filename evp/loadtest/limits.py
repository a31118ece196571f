"""The bounds of a load test."""

from __future__ import annotations

from evp.limits import MIB

#: A request of a load test that starts so long after it was due counts as late, seconds.
LOADTEST_LATE_S = 0.01
#: How often a load test looks which requests are due, seconds.
LOADTEST_TICK_S = 0.001
#: How often its processes tell how things stand, seconds.
LOADTEST_TELL_S = 0.5
#: The store must answer within this at the start of a load test, seconds.
LOADTEST_PING_S_MAX = 10.0
#: Generator processes that are ready begin together after this, seconds.
LOADTEST_START_S = 0.1
#: Connections that were lost are dialled again after this, seconds.
LOADTEST_RECONNECT_S = 0.2
#: What is due at the end of a load test may still be sent and answered within this, seconds.
LOADTEST_FINISH_S_MAX = 10.0
#: A load of which nothing is accepted ends after so many requests refused for good, a process.
LOADTEST_REFUSED_MAX = 20
#: How many requests a second are watched until they are stored, all processes together.
LOADTEST_SAMPLES_PER_S = 200
#: Of a load without a rate, one in so many requests.
LOADTEST_SAMPLE_EVERY = 16
#: How often the store is asked for those, seconds: less often, by a share of how long the oldest
#: one waits already, but not more seldom than the third. And how many at most are watched.
LOADTEST_LOOK_S = 0.01
LOADTEST_LOOK_SHARE = 0.02
LOADTEST_LOOK_S_MAX = 0.1
LOADTEST_WATCHED_MAX = 100_000
#: How often it looks at the log, seconds: while it loads, and while it waits for the end.
LOADTEST_LOG_LOOK_S = 0.25
LOADTEST_LOG_END_S = 0.02
#: A load test waits for the store as long as it makes progress within this, seconds.
LOADTEST_STORED_S_MAX = 60.0
#: Of events that were watched and are not seen once the group has done with all, so much longer.
LOADTEST_UNSEEN_S_MAX = 2.0
#: Bodies that are made ahead and take turns: events, by number and bytes.
LOADTEST_POOL_EVENTS_MIN = 20_000
LOADTEST_POOL_EVENTS_MAX = 200_000
LOADTEST_POOL_BYTES_MAX = 64 * MIB
#: Events that a load test can look up, a byte of memory each, and requests, forty at the end.
LOADTEST_VERIFIED_EVENTS_MAX = 200_000_000
LOADTEST_VERIFIED_REQUESTS_MAX = 20_000_000
#: What a load without a rate is taken to have at most, events and requests a second.
LOADTEST_SATURATED_EPS_MAX = 500_000
LOADTEST_SATURATED_REQUESTS_PER_S_MAX = 50_000
#: Files that a generator process opens beside its connections.
LOADTEST_FILES_KEPT = 32
#: Lost and doubled events that a load test names.
LOADTEST_NAMED_MAX = 20
