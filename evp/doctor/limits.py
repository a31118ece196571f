"""The bounds of `evp doctor`: how long it looks, and from when on something is told."""

from __future__ import annotations

from evp.limits import KIB, MIB

#: One check, or one mend, may take so long for all its questions, seconds.
CHECK_S_MAX = 10.0
MEND_S_MAX = 300.0
#: What must move is looked at again after this, seconds: a worker beats and a server records
#: every two seconds.
AGAIN_S = 5.0
#: Names that one finding lists.
NAMED_MAX = 5
#: A consumer that nobody holds and that has not read for so long is gone; workers remove it after
#: a minute.
GHOST_IDLE_MS = 5 * 60 * 1000
#: A group that nobody has read by for so long is told if it holds the log.
GROUP_SILENT_MS = 10 * 60 * 1000
#: Events that wait so long while nobody works, seconds.
WAITING_S_MAX = 30.0
#: What is done should have left the log so long after its retention, seconds, or by this share.
TRIM_LATE_S = 60.0
TRIM_LATE_SHARE = 1.25
#: Calls of `trim` that one mend makes; each removes up to 100,000 entries.
TRIMS_MAX = 1_000
#: How far clocks may be apart before it is told; from `limits.CLOCK_SKEW_MS_MAX` on it is an error.
SKEW_MS_MAX = 2_000
#: The log should not close connections that idle for less, seconds: servers use theirs every 15 s.
IDLE_CUT_S_MIN = 60
#: Of connections and of the memory mark, what may be in use before it is told.
FULL_SHARE = 0.8
#: A smaller least size makes the append-only file be rewritten every few seconds under load.
REWRITE_BYTES_MIN = 256 * MIB
#: An append-only file is told from this size on, if it is so many times its base.
GROWN_BYTES_MIN = 4 * KIB * MIB
GROWN_TIMES = 4
