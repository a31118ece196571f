"""`evp dlq` as an operator uses it: look, mend, replay, give up; in a pipe and on a terminal."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from redis import Redis

from tests.e2e.commands import Finished, background, evp, terminal
from tests.support.make import event, open_frame
from tests.support.up import EVP
from tests.support.wait import until_now

SRV = b"\x02" * 8


class Field:
    """A stream and a database of a test's own, and the command that runs there."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self.environ = environ
        self.folder = folder
        self.client: MongoClient[dict[str, Any]] = MongoClient(environ["EVP_MONGO_URL"])
        self.db = self.client[environ["EVP_MONGO_DB"]]
        self.frames = 0

    def dlq(self, *arguments: str) -> Finished:
        """Run a command of `evp dlq` in a pipe."""
        return evp("dlq", *arguments, environ=self.environ, cwd=self.folder)

    def json(self, *arguments: str) -> Any:
        """Run a command, and return what it prints with --json."""
        return json.loads(self.dlq(*arguments, "--json").out)

    def write(self, *events: dict[str, Any]) -> None:
        """Let a worker write a frame of events, and then whatever else there is."""
        self.frames += 1
        with Redis.from_url(self.environ["EVP_REDIS_URL"]) as log:
            log.xadd(self.environ["EVP_STREAM"], dict(open_frame(*events).fields(SRV, self.frames)))
        self.work()

    def add_plain(self, fields: dict[str, str]) -> None:
        """Put an entry as another program does."""
        with Redis.from_url(self.environ["EVP_REDIS_URL"]) as log:
            log.xadd(self.environ["EVP_STREAM"], dict(fields))

    def work(self) -> None:
        """Let a worker write all there is."""
        assert evp("work", "--burst", environ=self.environ, cwd=self.folder).code == 0

    def refuse_without(self, name: str | None) -> None:
        """Let the store refuse events that lack a field; None: let it take all."""
        rule = {"$jsonSchema": {"required": [name]}} if name else {}
        self.db.command({"collMod": "events", "validator": rule})


@pytest.fixture
def field(shared: dict[str, str], tmp_path: Path, log_url: str) -> Iterator[Field]:
    """A place for one test; removed afterwards."""
    field = Field(shared, tmp_path)
    try:
        yield field
    finally:
        field.client.drop_database(field.db.name)
        field.client.close()
        with Redis.from_url(log_url) as log:
            stream = shared["EVP_STREAM"]
            log.delete(stream, *log.scan_iter(f"{{{stream}}}:*"))


@pytest.fixture
def refused(field: Field) -> Field:
    """A place with five events that a validator refuses, and one that it takes."""
    field.work()
    field.refuse_without("subject")
    field.write(event(0), *(event(number, subject=None) for number in range(1, 6)))
    return field


@pytest.mark.slow
def test_from_the_finding_to_the_mend(refused: Field) -> None:
    """Counted with the reason and the mend, shown, counted dry, replayed: all is stored."""
    listed = refused.dlq("list")
    assert (listed.code, listed.err) == (0, "")
    assert "5 dead letters" in listed.out
    assert "document_validation" in listed.out
    assert "change the validator" in " ".join(listed.out.split())
    found = refused.json("list")
    assert (found["counted"], found["by_reason"]) == (5, {"document_validation": 5})
    one = found["letters"][0]
    shown = refused.dlq("show", one["id"])
    assert shown.code == 0
    assert "subject" in shown.out  # The rule that it breaks.
    assert '"type": "page_view"' in shown.out
    assert refused.json("show", one["id"])["event"]["source"] == "test"
    dry = refused.dlq("replay", "--dry-run")
    assert (dry.code, "5 dead letters to replay" in dry.out) == (0, True)
    again = refused.dlq("replay", "--yes")
    assert again.code == 1
    assert "0 of 5 delivered, 5 refused again" in again.out
    refused.refuse_without(None)
    done = refused.dlq("replay", "--yes")
    assert (done.code, done.out) == (0, "5 of 5 delivered\n")
    assert refused.db.events.count_documents({}) == 6
    [outcome] = refused.db.outcomes.find()
    assert (outcome["stored"], outcome["dead"]) == (6, [])
    assert refused.dlq("list").out == "0 dead letters\n"
    assert refused.dlq("replay", "--yes").out == "0 of 0 delivered\n"


def test_a_group_is_taken_by_the_command_that_is_shown(refused: Field) -> None:
    """What `top` prints for a group can be pasted: it delivers the letters of that group."""
    lines = [line.strip() for line in refused.dlq("top").out.splitlines()]
    assert lines[0] == "5 dead letters, 1 group by error"
    assert lines[1].startswith("5  document_validation ")
    [command] = [line for line in lines if line.startswith("evp dlq replay ")]
    refused.refuse_without(None)
    done = refused.dlq(*command.split()[2:], "--yes")
    assert (done.code, done.out) == (0, "5 of 5 delivered\n")


@pytest.mark.slow
def test_filters_choose(refused: Field) -> None:
    """What a filter leaves out is not touched."""
    refused.add_plain({"foo": "bar"})
    refused.work()
    assert refused.json("list", "--reason", "invalid_entry")["counted"] == 1
    assert refused.json("list", "--type", "page_view", "--since", "5m")["counted"] == 5
    assert refused.json("list", "--until", "1h")["counted"] == 0
    assert refused.json("list", "--source", "nobody")["counted"] == 0
    frame = refused.json("list", "--type", "page_view", "--limit", "1")["letters"][0]["frame_id"]
    assert refused.json("list", "--frame", frame)["counted"] == 5
    refused.refuse_without(None)
    done = refused.json("replay", "--frame", frame, "--yes")
    assert (done["selected"], done["done"], done["finished"]) == (5, 5, True)
    assert refused.json("list")["by_reason"] == {"invalid_entry": 1}


@pytest.mark.slow
def test_purge(refused: Field) -> None:
    """Purged letters are no longer listed, only on demand; what they held is gone."""
    ids = [one["id"] for one in refused.json("list")["letters"]]
    assert "1 dead letter to purge" in refused.dlq("purge", ids[0], "--dry-run").out
    done = refused.dlq("purge", ids[0], ids[1], "--yes")
    assert (done.code, done.out) == (0, "2 of 2 purged\n")
    assert refused.json("list")["counted"] == 3
    everything = refused.json("list", "--all")["letters"]
    assert [one["state"] for one in everything].count("purged") == 2
    shown = refused.dlq("show", ids[0])
    assert "nothing of it is there any more" in shown.out
    [outcome] = refused.db.outcomes.find()
    assert (outcome["stored"], len(outcome["dead"])) == (1, 5)
    gone = refused.dlq("replay", ids[0], "--yes")
    assert (gone.code, f"{ids[0]}  no such letter" in gone.out) == (1, True)


@pytest.mark.slow
def test_entry_of_another_program(field: Field) -> None:
    """The bytes of an entry that is no event are shown, no more than fits unless all is wanted."""
    field.add_plain({"foo": "é\x00" + "x" * 10_000})
    field.work()
    [one] = field.json("list")["letters"]
    assert one["entry"] in field.dlq("list").out
    shown = field.dlq("show", one["id"]).out
    assert r"3:foo10003:\xc3\xa9\x00xxx" in shown
    assert "--raw shows all" in shown
    assert "x" * 10_000 in field.dlq("show", one["id"], "--raw").out
    assert len(field.json("show", one["id"])["payload_hex"]) == 8192
    assert len(field.json("show", one["id"], "--raw")["payload_hex"]) > 20_000
    field.db.dead_letters.update_one({}, {"$set": {"reason": "corrupt_frame"}})
    assert field.dlq("replay", "--yes").code == 1
    assert field.json("list")["letters"][0]["reason"] == "invalid_entry"


@pytest.mark.slow
def test_entry_that_dies_again(refused: Field) -> None:
    """An entry that is a frame by now, and whose event the store refuses, was not delivered."""
    refused.add_plain({"foo": "bar"})
    refused.work()
    [letter] = refused.json("list", "--reason", "invalid_entry")["letters"]
    payload = b"4:type1:t2:id1:p4:data3:[1]"
    held = {"payload": payload, "payload_bytes": len(payload)}
    held |= {"payload_sha256": sha256(payload).hexdigest()}
    refused.db.dead_letters.update_one({"_id": letter["id"]}, {"$set": held})
    done = refused.dlq("replay", letter["id"], "--yes")
    assert done.code == 1
    assert "0 of 1 delivered, 1 refused again" in done.out
    assert "events: 0 stored, 0 stored before, 1 dead again" in done.out
    assert f"1 of the 1 events of entry {letter['entry']} are dead again" in done.out
    assert refused.json("list")["by_reason"] == {"document_validation": 6}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--reason", "none"], "there are id_conflict"),
        (["list", "--since", "yesterday"], "--since 'yesterday': wanted 30m, 2h, 7d or"),
        (["list", "--until", "2026-01-02T03:04:05"], "--until"),
        (["list", "--since", "9999999999d"], "--since"),
        (["list", "--frame", "xyz"], "--frame 'xyz': wanted a frame id"),
        (["show", "x"], "'x' is no id of a dead letter"),
        (["replay", "x", "--yes"], "'x' is no id of a dead letter"),
        (["replay"], "nobody can be asked here: --yes says that replay is meant"),
        (["purge"], "nobody can be asked here: --yes says that purge is meant"),
    ],
)
def test_wrong_use(shared: dict[str, str], tmp_path: Path, arguments: list[str], said: str) -> None:
    """What makes no sense is one line that says what does, and exit 2."""
    done = evp("dlq", *arguments, environ=shared, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert said in done.one_line


def test_unknown_letter(field: Field) -> None:
    """An id that no letter has is one line and exit 1, also in a database without letters."""
    for letter_id in ("0" * 24 + ":0", "0" * 32):
        done = field.dlq("show", letter_id)
        assert (done.code, done.out) == (1, "")
        assert "no dead letter has the id" in done.one_line
    assert field.dlq("list").out == "0 dead letters\n"
    assert field.dlq("purge", "0" * 32, "--yes").code == 1


def test_no_store(clean: dict[str, str], tmp_path: Path) -> None:
    """Without a store one line says where it was looked for and what to do; exit 3."""
    url = "mongodb://u:hunter2@127.0.0.1:1/"
    done = evp("dlq", "replay", "--yes", environ=clean | {"EVP_MONGO_URL": url}, cwd=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert "`evp up` starts one, EVP_MONGO_URL names another one" in done.one_line
    assert "hunter2" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("answer", [b"y\n", b"n\n"])
def test_question_on_a_terminal(refused: Field, columns: int, answer: bytes) -> None:
    """A person is asked, with the count; only yes changes anything."""
    refused.refuse_without(None)
    command = [*EVP, "dlq", "replay"]
    with terminal(command, environ=refused.environ, cwd=refused.folder, columns=columns) as shown:
        shown.wait_shows("Replay them? [y/N]")
        assert "5 dead letters to replay" in shown.text
        assert refused.db.events.count_documents({}) == 1
        shown.type(answer)
        code = shown.wait_ended().code
    if answer == b"y\n":
        assert (code, "5 of 5 delivered" in shown.text) == (0, True)
        assert refused.db.events.count_documents({}) == 6
    else:
        assert (code, "nothing was changed" in shown.text) == (1, True)
        assert refused.db.events.count_documents({}) == 1


@pytest.mark.slow
def test_ctrl_c(refused: Field) -> None:
    """Ended in the middle it says how far it got; the same command does the rest."""
    refused.refuse_without(None)
    replay = ("dlq", "replay", "--yes", "--rate", "1", "--json")
    with background(*replay, environ=refused.environ, cwd=refused.folder) as replaying:
        until_now(lambda: refused.db.events.count_documents({}) >= 3, what="two are delivered")
        assert replaying.stop(signal.SIGINT).code == 130
        told = json.loads(replaying.text)
    assert (told["selected"], told["finished"]) == (5, False)
    assert 1 <= told["done"] < 5
    assert refused.json("list")["counted"] == 5 - told["done"]
    assert refused.dlq("replay", "--yes").code == 0
    assert refused.db.events.count_documents({}) == 6
    [outcome] = refused.db.outcomes.find()
    assert (outcome["stored"], outcome["dead"]) == (6, [])
