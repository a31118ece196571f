"""Every bound of evp, by name; units come last."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

#: One event as JSON text.
EVENT_BYTES_MAX = 256 * KIB
#: The body of POST /events.
SINGLE_BODY_BYTES_MAX = 1 * MIB
#: The body of POST /events/batch.
BATCH_BODY_BYTES_MAX = 8 * MIB
#: Events in one request.
BATCH_EVENTS_MAX = 10_000
#: JSON nesting: the event itself is level 1.
NESTING_MAX = 32
#: Keys in one event, all levels together.
EVENT_KEYS_MAX = 1_000
#: One key, in UTF-8.
KEY_BYTES_MAX = 256
#: `id`, in UTF-8.
ID_BYTES_MAX = 128
#: `type`, `source`, `subject` and every other string attribute, in characters.
ATTRIBUTE_CHARS_MAX = 2_000
#: The name of an extension attribute, in characters.
ATTRIBUTE_NAME_CHARS_MAX = 64
#: The path of a culprit in an error, in characters: keys are the client's and can be long.
PATH_CHARS_MAX = 300
#: How far `time` may lie in the future: sender's clocks are wrong.
TIME_AHEAD_MS_MAX = 24 * 3600 * 1000
#: `x-api-key`; a longer one is unknown without being hashed.
API_KEY_BYTES_MAX = 256
#: Keys that are remembered: live ones, and ended ones for so long after their end.
API_KEYS_MAX = 2_000
API_KEYS_ENDED_MS_KEPT = 90 * 24 * 3600 * 1000
#: How often a server looks whether keys have changed, how long the log and then the store may take
#: for an answer: together less than the 5 seconds within which a revoked key is refused.
API_KEYS_LOOK_S = 2.0
API_KEYS_ANSWER_S_MAX = 1.0
#: How often it compares the store's keys with the log's copy, and how long the store may take then.
API_KEYS_COMPARE_S = 15.0
API_KEYS_COMPARE_S_MAX = 5.0
#: A change of that copy is tried so often while others change it too.
API_KEYS_CHANGE_TRIES_MAX = 10
#: Events a second that a key may be limited to.
API_KEY_RATE_PER_S_MAX = 1_000_000
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

#: An open frame that passed one of these closes; a request is never split, so it may exceed them.
FRAME_BYTES_CLOSE = 1 * MIB
FRAME_EVENTS_CLOSE = 5_000
#: Events of a frame: it was about to close when the last request joined it.
FRAME_EVENTS_MAX = FRAME_EVENTS_CLOSE + BATCH_EVENTS_MAX
#: Frames of one server process that wait for the log, the one under way included.
FRAMES_WAITING_MAX = 64
#: Bytes of frames of one server process that wait for the log.
FRAMES_WAITING_BYTES_MAX = 64 * MIB
#: Sources counted by name in a frame's summary; the rest is "other".
SUMMARY_SOURCES_MAX = 50

#: One command to the log must be answered within this, seconds; blocking reads add their block.
LOG_COMMAND_S_MAX = 5.0
#: A dial to the log, seconds.
LOG_CONNECT_S_MAX = 3.0
#: WAITAOF waits at most this for the disk of log and replicas.
DURABLE_WAIT_MS_MAX = 3_000
#: How often a server process looks at the log's durability settings again.
DURABILITY_CHECK_S = 15.0
#: How often a server process records its last acknowledged sequence number.
LEDGER_RECORD_S = 2.0
#: How often a server process carries what is left of others in the log to the store.
LEDGER_CARRY_S = 60.0
#: How long, and of how many epochs, the log keeps the record once they are over and the store
#: has it. Of too many, those without a frame leave first.
LEDGER_RETIRED_S = 7 * 24 * 3600
LEDGER_RETIRED_MAX = 1_000
#: The store must take a record within this, seconds.
LEDGER_STORE_S_MAX = 5.0

#: What of the log's memory may be in use before nothing more is accepted.
MEMORY_MARK_SHARE = 0.6
#: Once it was refused, accepting begins again below this share of the mark, or of BACKLOG_MAX.
REOPEN_SHARE = 0.8
#: So much of the mark at least lies between accepting again and refusing again.
REOPEN_BAND_SHARE = 0.01
#: Entries that are done stay only while all that is in memory takes less of the mark than this.
DONE_SHARE_OF_MARK = 0.5
#: Of what is free below the mark, what all servers may append between two looks.
LOOK_SHARE = 0.5
#: So much of the mark at most is left free when it gives no server a whole frame any more.
LAST_SHARE_MAX = 0.1
#: How often a server process looks how full the log is.
BACKLOG_LOOK_S = 0.25
#: A server process that ends takes this long at most to say that it looks no more.
BACKLOG_LEAVE_S_MAX = 0.5
#: A server process that has not looked for so long does not count.
SERVER_ALIVE_MS = 3_000
#: The rate at which the log drains is measured over this.
DRAIN_WINDOW_S = 5.0
#: It is not known before it was measured for so long.
DRAIN_KNOWN_S = 1.0
#: Retry-After of a log that is full.
BACKLOG_RETRY_S_MAX = 300
#: Entries that one run of the trimming script removes, and runs of one call.
TRIM_ENTRIES_MAX = 10_000
TRIM_ROUNDS_MAX = 10

#: A worker slot's lease, and how often it is renewed.
SLOT_LEASE_MS = 10_000
SLOT_RENEW_MS = 3_000
#: Slots tried for one base name.
SLOTS_MAX = 1_000
#: How often a worker looks for entries that nobody works on any more.
CLAIM_EVERY_S = 1.0
#: A consumer without a lease that has not read for so long, and owns nothing, is removed.
CONSUMER_GONE_IDLE_MS = 60_000
#: Who has read by a group within this may do so again: the group is not deleted unforced.
GROUP_READ_MS = 10_000
#: How long `evp claim-stale` waits for the store with one batch in its hands.
STALE_STORE_S_MAX = 20.0
#: How long the log remembers of a worker that it ended well, for `storage.isolation`.
ENDED_WELL_S = 7 * 24 * 3600
#: Deaths of workers after which events that they all tried to write are taken for poison.
POISON_DEATHS = 2
#: A worker that lives has renewed its lease within this, after an outage of the log.
KILLED_CONFIRM_S = 5.0
#: How often a worker tells the store what it does.
HEARTBEAT_S = 2.0
#: A worker that was silent for longer does not count as working.
WORKER_SILENT_S = 3 * HEARTBEAT_S
#: The end of a worker's shutdown time, kept for giving back what is pending.
GIVE_BACK_S_MAX = 1.0
#: Frames asked for in one read.
READ_FRAMES_MAX = 1_000
#: Bytes of frames asked for in one read; one frame may have more.
READ_BYTES_TARGET = 16 * MIB
#: After a read that gave less than was asked for, the next one waits at least so long, seconds:
#: what comes meanwhile is written at once.
READ_AGAIN_S = 0.02
#: Entries of other programs that are read at once: nothing tells how large they are.
READ_UNSEEN_MAX = 8
#: Entries and bytes of the log that one call for headers goes through, about.
HEADERS_MAX = 500
HEADERS_BYTES_TARGET = 4 * MIB

#: Ids in one `$in`: one embedded store answers in time that grows with the square of it.
LOOKUP_IDS_MAX = 50
#: A dead letter keeps this much of a payload: more than the largest frame of evp's can have,
#: 8 MiB of JSON that is six times as long in BSON.
DEAD_LETTER_PAYLOAD_BYTES_MAX = 64 * MIB
#: What a dead letter holds itself; a longer payload is kept in parts of this size.
DEAD_LETTER_PART_BYTES = 8 * MIB
#: What is said about a failure, in characters.
DETAIL_CHARS_MAX = 500
#: Dead letters read or changed at once, by number and by the bytes of their payloads.
DEAD_LETTERS_PAGE_MAX = 500
DEAD_LETTERS_BYTES_TARGET = 16 * MIB
#: `evp dlq list` counts so many, newest first, and says where there are more.
DEAD_LETTERS_COUNTED_MAX = 10_000
#: Letters that a report names; of the others it tells the number.
DEAD_LETTERS_NAMED_MAX = 20
#: `evp dlq show` shows this much of a payload, unless all of it is asked for.
DEAD_LETTER_SHOWN_BYTES_MAX = 4 * KIB
#: A look whether the store is there, and how long its answer is kept.
STORE_PING_S_MAX = 1.0
STORE_PING_KEEP_S = 3.0
#: A server process needs the store for its ledger, its balance, its keys, and to look whether it is
#: there;
#: for LOGINS_AT_ONCE and REFRESHES_AT_ONCE; and to see whether a token still holds.
SERVER_STORE_CONNECTIONS_MAX = 9
#: Server selection and waiting for a pooled connection, milliseconds.
STORE_SELECT_MS_MAX = 5_000
STORE_QUEUE_MS_MAX = 2_000

#: What people ask of the store must be answered within this, seconds.
PEOPLE_STORE_S_MAX = 3.0
#: Users of a deployment, and the name of one.
USERS_MAX = 10_000
USER_NAME_CHARS_MAX = 64
#: A password, in characters and in UTF-8.
PASSWORD_CHARS_MIN = 12
PASSWORD_BYTES_MAX = 512
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
#: Sessions of a user; of more the oldest end.
SESSIONS_MAX = 50

#: First and longest wait between attempts; each wait is drawn evenly from 0 to the bound.
BACKOFF_FIRST_S = 0.1
BACKOFF_LONGEST_S = 5.0
#: A server that lost the log dials again at least this often.
RECONNECT_LONGEST_S = 1.0
#: A child that dies sooner than this after its start counts as a failed start.
CHILD_STABLE_S = 5.0
#: Failed starts in a row before a supervisor gives up.
CHILD_FAILED_STARTS_MAX = 5
#: A child must be ready within this after its start, seconds: an engine may have to recover.
CHILD_READY_S_MAX = 60.0
#: Where engines listen: below the ports that systems give to connections (from 32768 or 49152).
ENGINE_PORTS = range(20_000, 32_000)
ENGINE_PORTS_TRIED_MAX = 100
#: One look whether an engine or a server answers.
PROBE_S_MAX = 2.0
#: What is shown of a child's log when it fails.
LOG_TAIL_BYTES = 1_000
#: Connections that wait to be accepted.
LISTEN_BACKLOG = 2_048
#: evp's own HTTP client: a dial, an answer, and its size.
HTTP_CONNECT_S_MAX = 5.0
HTTP_ANSWER_S_MAX = 30.0
HTTP_ANSWER_BYTES_MAX = 16 * MIB
#: `evp send`: events and bytes of one request, and how often one is tried.
SEND_EVENTS_MAX = 500
SEND_BYTES_MAX = 1 * MIB
SEND_ATTEMPTS_MAX = 8
#: The longest wait that `evp send` grants a Retry-After.
SEND_RETRY_AFTER_S_MAX = 30.0
#: How long `evp up --demo` waits for the store without any progress.
DEMO_STORED_S_MAX = 120.0
#: Totals are summed again after at least this many times what the last sum took.
TOTALS_COST_FACTOR = 10
#: A bucket of 10 s is closed this long after its end; its last frames are then settled, mostly.
BUCKET_CLOSE_MS = 20_000
#: Buckets that one fold sums up, and new ones that it finds.
FOLD_BUCKETS_MAX = 20
FOLD_LISTED_MAX = 100
#: A bucket in which something changed is summed again after this, with what changes meanwhile.
FOLD_MARKED_MS = 5_000
#: A bucket that can't be summed yet is looked at again after this.
FOLD_WAIT_MS = 5_000
#: Types in a cell and sources in a bucket that are counted by name; the rest is "other".
ROLLUP_NAMES_MAX = 1_000
#: Sums by the minute are kept so long after the events were accepted; those of hours and days stay.
ROLLUP_MINUTES_MS_KEPT = 30 * 24 * 3600 * 1000
#: Buckets of which one turn removes the minutes, and when one is tried again that is still needed.
PRUNE_BUCKETS_MAX = 20
PRUNE_LATER_MS = 3600 * 1000
#: Buckets that one turn looks through for those that nobody has said when to prune.
PRUNE_DATED_MAX = 1_000
#: Rows of the store that are decoded in one go.
STORE_ROWS_AT_ONCE = 500
#: Documents of sums in one write.
ROLLUP_WRITES_MAX = 100
#: A worker that folds or sweeps does so for this long; then another one may.
JOB_LEASE_MS = 15_000
#: Frames that one sweep judges, buckets it looks into, and frames of one that the log is asked for.
SWEEP_FRAMES_MAX = 20
SWEEP_BUCKETS_MAX = 10
SWEEP_ENTRIES_MAX = 200
#: An outcome that is not final, or has dead letters, is judged again within this.
JUDGE_AGAIN_MS_MIN = 10_000
JUDGE_AGAIN_MS_MAX = 24 * 3600 * 1000
#: One that has not changed for so long is left as it is: by then it was judged about 30 times.
JUDGE_AGAIN_AGE_MS_MAX = 7 * 24 * 3600 * 1000
#: Processes that share their metrics, and what each may put on their board.
METRICS_BOARD_PLACES_MAX = 1_024
METRICS_PLACE_BYTES = 64 * KIB
#: How often each does so, and when it counts as gone, seconds.
METRICS_SHARE_S = 1.0
METRICS_STALE_S = 5.0
#: A look at the log for metrics may take this long, and is kept for so long, seconds.
METRICS_LOOK_S_MAX = 2.0
METRICS_LOOK_KEEP_S = 1.0
#: So long a text of metrics is told to all who ask, seconds.
METRICS_TEXT_KEEP_S = 1.0
#: Consumer groups that metrics tell of, those that are furthest behind.
METRICS_GROUPS_MAX = 100
#: Connections to a port for metrics alone; the head of a request there; and how long one may
#: take from the first byte to the last, seconds.
METRICS_CONNECTIONS_MAX = 32
METRICS_HEAD_BYTES_MAX = 8 * KIB
METRICS_REQUEST_S_MAX = 10.0
#: One turn of retention takes this long, and what the last writes of it take, seconds.
EXPIRE_TURN_S = 0.5
#: Events and frames that it expires at once: whole frames, at least one.
EXPIRE_EVENTS_MAX = 1_000
EXPIRE_FRAMES_MAX = 200
#: Buckets that one turn looks into, and headers of one that it reads.
EXPIRE_BUCKETS_MAX = 20
EXPIRE_HEADERS_MAX = 1_000
#: Buckets that one turn looks through for those that nobody has said when to expire.
EXPIRE_DATED_MAX = 1_000
#: A bucket in which something is not settled yet is looked at again after this.
EXPIRE_LATER_MS = 60 * 1000
#: A frame that was settled more lately may still be written by another worker.
EXPIRE_SETTLED_MS = 3600 * 1000
#: Documents and dead letters that `evp erase` changes in one write.
ERASE_DOCUMENTS_MAX = 500
#: It may go through all of a collection for so long, milliseconds.
ERASE_PASS_MS_MAX = 3600 * 1000
#: A server process looks at the balance only when it is asked for its health, again after at
#: least so many times what the last look took, and gives a look up after this, seconds.
BALANCE_COST_FACTOR = 100
BALANCE_KEEP_S = 15.0
BALANCE_S_MAX = 20.0
#: `evp verify` holds so many frames at a time, and so many ids; one frame may have more.
VERIFY_PAGE_FRAMES = 1_000
VERIFY_PAGE_EVENTS = 20_000
#: Its questions under way at the same time.
VERIFY_LOOKUPS_AT_ONCE = 4
#: What may still be on its way is looked at again after this wait, seconds.
VERIFY_AGAIN_S = 5.0
#: Frames of which it is in doubt that are kept for that second look.
VERIFY_DOUBTS_MAX = 10_000
#: Findings it names one by one, and ids it names of each; all are counted.
VERIFY_FINDINGS_MAX = 1_000
VERIFY_FINDING_IDS_MAX = 20
#: Findings that may be acknowledged, each by itself.
ACKNOWLEDGED_MAX = 10_000
#: The largest `--sample`, in frames.
VERIFY_SAMPLE_MAX = 100_000
#: How far clocks of servers, log and store may be apart for `evp verify` to find everything.
CLOCK_SKEW_MS_MAX = 10 * 60 * 1000
#: Headers that a scan of all events keeps at hand, in bytes of ids.
VERIFY_HEADERS_BYTES_MAX = 64 * MIB
#: A request of a load test that starts so long after it was due counts as late, seconds.
LOADTEST_LATE_S = 0.01
#: How often a load test looks which requests are due, seconds.
LOADTEST_TICK_S = 0.001
#: How often its processes tell how things stand, seconds.
LOADTEST_TELL_S = 0.5
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
#: A load test's rate, time, connections and processes.
LOADTEST_EPS_MAX = 10_000_000
LOADTEST_DURATION_S_MAX = 7 * 24 * 3600
LOADTEST_CONNECTIONS_MAX = 10_000
LOADTEST_PROCESSES_MAX = 64
#: Different types, and different users, of made events.
LOADTEST_NAMES_MAX = 100_000
#: The file whose events it sends.
LOADTEST_INPUT_BYTES_MAX = 32 * MIB
#: Events that a load test can look up, a byte of memory each, and requests, forty at the end.
LOADTEST_VERIFIED_EVENTS_MAX = 200_000_000
LOADTEST_VERIFIED_REQUESTS_MAX = 20_000_000
#: What a load without a rate is taken to have at most, events and requests a second.
LOADTEST_SATURATED_EPS_MAX = 500_000
LOADTEST_SATURATED_REQUESTS_PER_S_MAX = 50_000
#: Files that a generator process opens beside its connections.
LOADTEST_FILES_KEPT = 32
#: The store may take this long for an answer when events are looked up, milliseconds: the embedded
#: one goes through its whole collection first. At the start it must answer within the second one.
LOADTEST_PASS_MS_MAX = 600_000
LOADTEST_PING_S_MAX = 10.0
#: Lost and doubled events that a load test names.
LOADTEST_NAMED_MAX = 20
#: What a server process reads from the store for those who ask: connections, one of them for what
#: no sums have; questions that are worked on at once, and that wait; how long one takes, seconds.
READ_CONNECTIONS_MAX = 3
READ_AT_ONCE = 2
READ_WAITING_MAX = 32
READ_S_MAX = 10.0
#: How long a question looks for the store where it seems to be away, seconds.
READ_REACH_S_MAX = 2.0
#: An event is looked for in the log: looks that wait for their turn, how long one takes with that,
#: seconds, and the bytes of carriers that are read; no frame has as many.
LOG_LOOKS_WAITING_MAX = 32
LOG_LOOK_S_MAX = 2.0
LOG_LOOK_BYTES_MAX = 64 * MIB
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
#: Types and sources, by name, of minutes that a server process keeps at hand for later answers.
MINUTES_NAMES_MAX = 200_000
#: Steps of a series: a week of five minutes, or a day of minutes, and some.
SERIES_POINTS_MAX = 2_100
#: Where no interval is asked for, it is the finest that gives no more steps than this.
SERIES_POINTS_USUAL = 300
#: Types and sources that an answer counts by name, in all and in each step; the rest is "other".
METRICS_NAMES_MAX = 100
SERIES_NAMES_MAX = 20
#: Types or sources, by name and step, that are added up for an answer; where there are more, only
#: the most frequent names are counted by step.
STEPS_NAMES_HELD_MAX = 200_000
STEPS_NAMES_KEPT = 50
#: Cells, of up to a few thousand names each, that are added up without a pause.
CELLS_AT_ONCE = 50
#: A value in a query, in characters.
QUERY_VALUE_CHARS_MAX = 2_000
#: Events on a page: what one may ask for, what it gets unasked, and bytes of their documents.
PAGE_EVENTS_MAX = 500
PAGE_EVENTS_USUAL = 50
PAGE_BYTES_MAX = 4 * MIB
#: What is gone through for one page: events looked at, and seconds.
PAGE_LOOKED_MAX = 10_000
PAGE_S_MAX = 1.0
#: Frames whose ids are read at once for a page.
PAGE_FRAMES_MAX = 500
#: Dead letters of one event that are told.
EVENT_LETTERS_MAX = 20
