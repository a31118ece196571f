"""Every bound of evp, by name; units come last."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

#: One event as JSON text.
EVENT_BYTES_MAX = 256 * KIB
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
#: Keys that are remembered: live ones, and ended ones for so long after their end.
API_KEYS_MAX = 2_000
API_KEYS_ENDED_MS_KEPT = 90 * 24 * 3600 * 1000
#: A server compares the store's keys with the log's copy so often; the store may take so long.
API_KEYS_COMPARE_S = 15.0
API_KEYS_COMPARE_S_MAX = 5.0
#: A change of that copy is tried so often while others change it too.
API_KEYS_CHANGE_TRIES_MAX = 10
#: Events a second that a key may be limited to.
API_KEY_RATE_PER_S_MAX = 1_000_000

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

#: Streams over which servers may spread requests (EVP_PARTITIONS).
PARTITIONS_MAX = 256
#: Partitions, or runs of them, that one line names.
PARTITIONS_NAMED_MAX = 8
#: How often a process that follows all partitions looks whether there are more by now.
PARTITIONS_LOOK_S = 2.0
#: How often it is said at most that nobody tells how many there are.
PARTITIONS_UNKNOWN_SAID_S = 60.0
#: Of several streams each has so long to answer a look, seconds: the others are told without it.
PARTITION_ANSWER_S_MAX = 2.0
#: How often the loops of a worker process, which trim the partitions, ask which groups there are.
GROUPS_ASK_S = 1.0
#: A partition whose server was away is not asked again for so long, by a sweep or for groups.
PARTITION_AWAY_S = 5.0
#: How long, and how often at once, a frame is sent again while a cluster moves its slot.
LOG_MOVED_S_MAX = 4.0
LOG_MOVED_AGAIN_S = 0.05

#: One command to the log must be answered within this, seconds; blocking reads add their block.
LOG_COMMAND_S_MAX = 5.0
#: A dial to the log, seconds.
LOG_CONNECT_S_MAX = 3.0
#: A node or Sentinel tells whom to dial within this, or is asked after the others for a while.
LOG_ASK_S_MAX = 1.2
LOG_AVOID_S = 10.0
#: WAITAOF waits at most this for the disk of log and replicas.
DURABLE_WAIT_MS_MAX = 3_000
#: Believed alone, it must take so long to confirm what came just after a sync, so often.
WAITAOF_S_MIN = 0.5
WAITAOF_TRIES = 3
#: The log keeps records of ended epochs for so long, so many; those without frames leave first.
LEDGER_RETIRED_S = 7 * 24 * 3600
LEDGER_RETIRED_MAX = 1_000
#: The store must take a record within this, seconds.
LEDGER_STORE_S_MAX = 5.0

#: What of the log's memory may be in use before nothing more is accepted.
MEMORY_MARK_SHARE = 0.6
#: Entries that are done stay only while all that is in memory takes less of the mark than this.
DONE_SHARE_OF_MARK = 0.5
#: A server process that has not looked for so long does not count.
SERVER_ALIVE_MS = 3_000
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
#: Entries that are counted when a group is set to another place, so that XINFO can tell its lag.
POSITION_ENTRIES_COUNTED_MAX = 10_000
#: `evp groups reset` tries again so often when the log is trimmed meanwhile; and so many frames
#: that would be passed over are looked up in the store, the others count as not written.
GROUP_RESET_TRIES_MAX = 5
GROUP_SKIPPED_FRAMES_MAX = 50_000
#: Consumers that `evp groups describe` names, those with most pending entries first.
GROUP_CONSUMERS_NAMED_MAX = 200
#: How long `evp groups describe` waits for the store, seconds; the log's side is told without it.
GROUP_STORE_S_MAX = 3.0
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
#: One that fell silent without having ended is shown for so long, that somebody may miss it.
WORKER_MISSED_S = 60.0
#: The end of a worker's shutdown time, kept for giving back what is pending.
GIVE_BACK_S_MAX = 1.0
#: Frames asked for in one read.
READ_FRAMES_MAX = 1_000
#: Bytes of frames asked for in one read; one frame may have more. A worker process may hold
#: this much for each partition and batch in flight.
READ_BYTES_TARGET = 16 * MIB
#: After a read that gave less than was asked for the next one waits so long, to give more at once.
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
#: `evp dlq top` looks at so many, newest first, and puts them into so many groups.
DEAD_LETTERS_GROUPED_MAX = 100_000
DEAD_LETTER_GROUPS_MAX = 1_000
#: Letters that a report names; of the others it tells the number.
DEAD_LETTERS_NAMED_MAX = 20
#: `evp dlq show` shows this much of a payload, unless all of it is asked for.
DEAD_LETTER_SHOWN_BYTES_MAX = 4 * KIB
#: Server selection and waiting for a pooled connection, milliseconds.
STORE_SELECT_MS_MAX = 5_000
STORE_QUEUE_MS_MAX = 2_000
#: One step of `evp init` may take this long: an index over all events that are there already.
PROVISION_STEP_S_MAX = 4 * 3600

#: What people ask of the store must be answered within this, seconds.
PEOPLE_STORE_S_MAX = 3.0
#: Users of a deployment, and the name of one.
USERS_MAX = 10_000
USER_NAME_CHARS_MAX = 64
#: A password, in characters and in UTF-8.
PASSWORD_CHARS_MIN = 12
PASSWORD_BYTES_MAX = 512
#: Sessions of a user; of more the oldest end.
SESSIONS_MAX = 50

#: First and longest wait between attempts; each wait is drawn evenly from 0 to the bound.
BACKOFF_FIRST_S = 0.1
BACKOFF_LONGEST_S = 5.0
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
#: An idle connection is kept for so long: not as long as servers and balancers keep it.
HTTP_KEEP_ALIVE_S = 30.0
#: The longest wait that a Retry-After is granted.
HTTP_RETRY_AFTER_S_MAX = 300.0
#: `evp send` and the client in the background: events and bytes of one request.
SEND_EVENTS_MAX = 500
SEND_BYTES_MAX = 1 * MIB
#: After so many requests a batch that is refused is divided no further.
SEND_REQUESTS_MAX = 100
#: How long `evp send` tries to send one request, seconds.
SEND_RETRY_S = 600.0
#: How long the client tries: `send` and `send_batch`, and in the background, seconds.
CLIENT_RETRY_S = 30.0
CLIENT_BACKGROUND_RETRY_S = 600.0
#: In the background it keeps an event waiting for others so long, seconds.
CLIENT_FLUSH_EVERY_S = 0.2
#: Events, and their bytes, that it holds until they are sent.
CLIENT_BUFFER_EVENTS = 10_000
CLIENT_BUFFER_BYTES_MAX = 64 * MIB
#: How long `close` goes on sending, seconds.
CLIENT_CLOSE_S = 30.0
#: Its connections; more requests at a time wait for one.
CLIENT_CONNECTIONS_MAX = 16
#: How long `evp up --demo` waits for the store without any progress.
DEMO_STORED_S_MAX = 120.0
#: Totals are summed again after at least this many times what the last sum took.
TOTALS_COST_FACTOR = 10
#: How long a group takes to drain is told by how it went within so many looks.
DRAIN_WINDOW_LOOKS = 10
#: Events that a group has not acked are counted exactly up to so many entries.
PENDING_ENTRIES_COUNTED_MAX = 200
#: The live view remembers so much of what it saw, in seconds and in looks.
HISTORY_S = 60.0
HISTORY_LOOKS_MAX = 300
#: What is typed to find groups and workers by, and what is read of a keyboard at once.
FILTER_CHARS_MAX = 40
KEYS_READ_BYTES_MAX = 1_024
#: Whoever looks again and again asks the log about its settings and memory this rarely, seconds.
ENGINES_LOOK_S = 2.0
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
#: A load test's rate, time, connections and processes.
LOADTEST_EPS_MAX = 10_000_000
LOADTEST_DURATION_S_MAX = 7 * 24 * 3600
LOADTEST_CONNECTIONS_MAX = 10_000
LOADTEST_PROCESSES_MAX = 64
#: Different types, and different users, of made events.
LOADTEST_NAMES_MAX = 100_000
#: The file whose events it sends.
LOADTEST_INPUT_BYTES_MAX = 32 * MIB
#: The store may take this long for an answer where all events of a run are looked up,
#: milliseconds: the embedded one goes through its whole collection first.
STORE_PASS_MS_MAX = 600_000
#: An event is looked for in the log: looks that wait for their turn, how long one takes with that,
#: seconds, and the bytes of carriers that are read; no frame has as many.
LOG_LOOKS_WAITING_MAX = 32
LOG_LOOK_S_MAX = 2.0
LOG_LOOK_BYTES_MAX = 64 * MIB
#: Types and sources, by name, of minutes that a server process keeps at hand for later answers.
MINUTES_NAMES_MAX = 200_000
#: Types or sources, by name and step, that are added up for an answer; where there are more, only
#: the most frequent names are counted by step.
STEPS_NAMES_HELD_MAX = 200_000
STEPS_NAMES_KEPT = 50
#: Cells, of up to a few thousand names each, that are added up without a pause.
CELLS_AT_ONCE = 50
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
#: Who reads the log by no group (`evp tap`, `evp trace`) gets so much of it in one reply: entries,
#: and bytes of frames, of which one may be larger.
SCAN_ENTRIES_MAX = 500
SCAN_BYTES_TARGET = 2 * MIB
#: `evp tap` shows so many events a second unless told otherwise, and so many at most.
TAP_SHOWN_PER_S_USUAL = 100
TAP_SHOWN_PER_S_MAX = 10_000
#: What it may show is given to it by turns of so many seconds, so that it comes evenly.
TAP_TURN_S = 0.25
#: It waits so long for an entry before it looks around.
TAP_BLOCK_MS = 500
#: With so many events unread it goes on with the newest: about a second of the fastest load.
TAP_BEHIND_EVENTS_MAX = 50_000
#: Conditions it takes, and entries that it names because they can't be read.
TAP_WHERE_MAX = 20
TAP_BROKEN_TOLD_MAX = 10
#: It tells so often how many events it passed over, seconds.
TAP_TELL_S = 5.0
#: `evp trace` looks for an event in the whole log for so long, seconds, and at most half of it.
TRACE_SEARCH_S_MAX = 60.0
#: Frames with one event that it tells of, and consumer groups of each.
TRACE_FRAMES_MAX = 20
TRACE_GROUPS_MAX = 20
#: The store must be found within the first of these, and answer a round of questions within the
#: second one, seconds.
TRACE_STORE_REACH_S_MAX = 3.0
TRACE_STORE_S_MAX = 15.0
