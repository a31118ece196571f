"""evp on a virtual clock: whole deployments, simulated by the thousand from seeds.

    clients ─▶ evp's servers ─▶ simulated log ─▶ evp's workers ─▶ simulated store

What runs is evp: the accept path, flusher and producer, ledger, consumer, worker loop, writer,
settle, sweep, folds, trim, and `evp verify` at the end. What is simulated is below it, behind
two seams that are there anyway: `evp.stream.dial.dial`, which gives a connection to the log,
and the database that `evp.storage.client.database` gives. Nothing of evp knows of it.

Read in this order:

| module | what it is |
|---|---|
| `loop`, `machine`, `knobs` | an event loop without waiting; clocks, chance, process ids; limits that are closer together |
| `memory`, `commands`, `scripts`, `log` | a log in memory; twins of evp's Lua; `test_log` holds them against a real log |
| `documents`, `store` | a store in memory; `test_store` holds it against a real store |
| `faults` | what goes wrong with single calls: refused, lost, late |
| `events`, `world` | clients and processes, and what befalls them |
| `book`, `check` | what really happened; what must hold at each moment, and at the end; `test_check` plants what they must find |
| `simulation`, `schedule` | one world from start to end; what befalls it, drawn from a seed |
| `mutants` | rules of evp that can be taken away, to see that it is found |

`python -m tests.simulation --help` runs them; `test_machine` lets Hypothesis say what happens.

What it cannot show: faults within an engine, what a driver does with its sockets, threads, and
how long anything takes. Durability is none of it either: the log's disk has everything at once,
WAITAOF says so each time, and of commands that are sent together all are carried out, or none.
The log's Lua is not run, but its twins: a wrong script is found by `test_log` or by the tests
against real engines, which with `tests/faults` are there for all this.
"""  # noqa: E501 - a table's row is one line
