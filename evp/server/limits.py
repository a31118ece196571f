"""The bounds of a server process: what it takes of whoever talks to it, and for how long."""

from __future__ import annotations

from evp.limits import KIB, MIB

#: The body of POST /events.
SINGLE_BODY_BYTES_MAX = 1 * MIB
#: `x-api-key`; a longer one is unknown without being hashed.
API_KEY_BYTES_MAX = 256
#: How often a server looks whether keys have changed, how long the log and then the store may take
#: for an answer: together less than the 5 seconds within which a revoked key is refused.
API_KEYS_LOOK_S = 2.0
API_KEYS_ANSWER_S_MAX = 1.0
#: Request line and headers of one HTTP request.
HEADER_BYTES_MAX = 32 * KIB
#: The path of a URL; its query, and how many parameters that has: libraries keep what they parsed
#: of the last thousand.
PATH_BYTES_MAX = 2 * KIB
QUERY_BYTES_MAX = 16 * KIB
QUERY_PARAMETERS_MAX = 16
#: The head of a request that is kept to compare the next one with.
REPEATED_HEAD_BYTES_MAX = 2 * KIB
#: Connections of one server process, as far as it may open so many files.
CONNECTIONS_MAX = 4_096
#: Files that a server process needs for anything else.
FILES_KEPT = 64
#: Connections beyond that are told so, up to as many more; further ones are cut at once.
CONNECTIONS_REFUSED_MAX = 32
#: Bodies of which a part has come, all connections of a server process together.
BODIES_BYTES_MAX = 128 * MIB
#: A body that is unpacked, or looked through event by event, in the loop's own turn; a larger one
#: in a thread, and so many of those at a time.
BODY_INLINE_BYTES_MAX = 64 * KIB
BODIES_IN_THREADS_MAX = 2
#: Members of a gzip body, or frames of a zstd body.
ENCODED_MEMBERS_MAX = 100
#: The window that a zstd frame may ask for, as a power of 2: what RFC 9659 grants over HTTP.
ZSTD_WINDOW_LOG_MAX = 23
#: Rejected events of a batch that its answer names; of the others it tells the number.
REJECTED_NAMED_MAX = 1_000
#: `x-request-id` as a client sends it; of a longer one nothing is kept.
REQUEST_ID_CHARS_MAX = 128
#: How long a browser may remember that an origin is allowed, seconds.
CORS_KEPT_S = 2 * 3600
#: A connection without a request, seconds.
KEEP_ALIVE_S = 75
#: A request that started must be read whole within this, seconds.
REQUEST_READ_S_MAX = 60
#: After its last answer a connection waits this long for what its client was about to send.
LINGER_S_MAX = 5.0
#: How often a server process looks at the log's durability settings again.
DURABILITY_CHECK_S = 15.0
#: A partition is not written to before workers can know of it; whoever waits for that is told
#: after this.
ANNOUNCED_S_MAX = 2.0
#: How often a server process records its last acknowledged sequence number.
LEDGER_RECORD_S = 2.0
#: How often a server process carries what is left of others in the log to the store.
LEDGER_CARRY_S = 60.0
#: Once it was refused, accepting begins again below this share of the mark, or of BACKLOG_MAX.
REOPEN_SHARE = 0.8
#: So much of the mark at least lies between accepting again and refusing again.
REOPEN_BAND_SHARE = 0.01
#: Of what is free below the mark, what all servers may append between two looks.
LOOK_SHARE = 0.5
#: So much of the mark at most is left free when it gives no server a whole frame any more.
LAST_SHARE_MAX = 0.1
#: How often a server process looks how full the log is.
BACKLOG_LOOK_S = 0.25
#: A server process that ends takes this long at most to say that it looks no more.
BACKLOG_LEAVE_S_MAX = 0.5
#: The rate at which the log drains is measured over this.
DRAIN_WINDOW_S = 5.0
#: It is not known before it was measured for so long.
DRAIN_KNOWN_S = 1.0
#: Retry-After of a log that is full.
BACKLOG_RETRY_S_MAX = 300
#: A look whether the store is there, and how long its answer is kept.
STORE_PING_S_MAX = 1.0
STORE_PING_KEEP_S = 3.0
#: A server process needs the store for its ledger, its balance, its keys, and to look whether it
#: is there; for LOGINS_AT_ONCE and REFRESHES_AT_ONCE; and to see whether a token still holds.
SERVER_STORE_CONNECTIONS_MAX = 9
#: The body of a request below /auth.
AUTH_BODY_BYTES_MAX = 4 * KIB
#: Tries to log in, by account and by address, within so many seconds, a server process; and the
#: accounts and addresses of which it counts them.
LOGIN_TRIES_MAX = 10
LOGIN_WINDOW_S = 60
LOGIN_NAMES_MAX = 10_000
#: Logins that a server process does at a time, and those that wait; the same of refreshes and
#: logouts together.
LOGINS_AT_ONCE = 2
LOGINS_WAITING_MAX = 20
REFRESHES_AT_ONCE = 2
REFRESHES_WAITING_MAX = 100
#: An access token is good for so many seconds; a longer one is none. Clocks may differ by this.
ACCESS_TOKEN_S = 15 * 60
ACCESS_TOKEN_SKEW_S_MAX = 5
TOKEN_BYTES_MAX = 4 * KIB
#: Whether a user still may is asked again after this, of so many who were here last; and after
#: the second one where the store did not answer.
STANDING_KEEP_S = 30.0
STANDING_AGAIN_S = 10.0
PEOPLE_KNOWN_MAX = 1_000
#: A session ends when it was not refreshed for so long, and after the second one in any case.
REFRESH_IDLE_S = 7 * 24 * 3600
SESSION_S_MAX = 30 * 24 * 3600
#: The refresh token that was good last is taken once more within this: its answer may be lost.
REFRESH_AGAIN_S = 10
#: A server that lost the log dials again at least this often.
RECONNECT_LONGEST_S = 1.0
#: A server process looks at the balance only when it is asked for its health, again after at
#: least so many times what the last look took, and gives a look up after this, seconds.
BALANCE_COST_FACTOR = 100
BALANCE_KEEP_S = 15.0
BALANCE_S_MAX = 20.0
#: What a server process reads from the store for those who ask: connections, one of them for what
#: no sums have; questions that are worked on at once, and that wait; how long one takes, seconds.
READ_CONNECTIONS_MAX = 3
READ_AT_ONCE = 2
READ_WAITING_MAX = 32
READ_S_MAX = 10.0
#: How long a question looks for the store where it seems to be away, seconds.
READ_REACH_S_MAX = 2.0
#: Equal questions get one answer, which is kept so long, seconds; and how many are.
ANSWER_KEEP_S = 1.0
ANSWERS_MAX = 32
#: Frames that no sums have are read every so often, for so long after somebody asked; where that
#: was longer ago than the third, a question waits for it.
TAIL_FRESH_S = 2.0
TAIL_KEPT_S = 60.0
TAIL_STALE_S_MAX = 5.0
#: Frames without sums of which a server process keeps the ids: without workers they grow.
TAIL_FRAMES_MAX = 200_000
#: Steps of a series: a week of five minutes, or a day of minutes, and some.
SERIES_POINTS_MAX = 2_100
#: Where no interval is asked for, it is the finest that gives no more steps than this.
SERIES_POINTS_USUAL = 300
#: Types and sources that an answer counts by name, in all and in each step; the rest is "other".
METRICS_NAMES_MAX = 100
SERIES_NAMES_MAX = 20
#: A value in a query, in characters.
QUERY_VALUE_CHARS_MAX = 2_000
#: The dashboard: a look this often while somebody watches, and for so long after, seconds; of the
#: looks those of this time are kept for whoever comes.
LIVE_LOOK_S = 1.0
LIVE_KEPT_S = 30.0
LIVE_HISTORY_S = 300
#: Who may watch a server process at a time; one more comes back after the second one, seconds.
LIVE_VIEWERS_MAX = 50
LIVE_BUSY_RETRY_S = 10
#: A viewer gets a sign of life where there is nothing else to tell; one that takes nothing for so
#: long is given up, seconds.
LIVE_HEARTBEAT_S = 2.0
LIVE_STALL_S_MAX = 30.0
#: The last piece of a stream is taken within this, seconds, or the connection is cut.
LIVE_END_S_MAX = 0.5
#: Whether a viewer still may is asked again so often, seconds; and how long one whose token has
#: ended is told on while the store, which renews sessions, is away.
LIVE_AGAIN_S = 10.0
LIVE_OVERDUE_S_MAX = 4 * 3600
#: How often the types of the last minutes are counted, seconds; of how many minutes; and how many
#: types have their names.
LIVE_TYPES_S = 5.0
LIVE_TYPES_MINUTES = 15
LIVE_TYPES_MAX = 6
#: Workers and consumer groups that a snapshot tells of.
LIVE_WORKERS_MAX = 64
LIVE_GROUPS_MAX = 64
LIVE_PARTITIONS_MAX = 64
#: Dead letters that a server counts, newest first, and their largest groups; those of a page, and
#: as many as it has unasked; how large one may be to be shown, or delivered by a server.
LETTERS_COUNTED_MAX = 2_000
LETTER_GROUPS_MAX = 20
LETTERS_PAGE_MAX = 100
LETTERS_PAGE_USUAL = 20
LETTER_HERE_BYTES_MAX = 512 * KIB
#: One request delivers dead letters for so long, seconds, and so many a second; ids it names.
REPLAY_S_MAX = 5.0
REPLAY_LETTERS_PER_S = 200.0
REPLAY_IDS_MAX = 100
#: The body of a request for that.
REPLAY_BODY_BYTES_MAX = 16 * KIB
