"""The cluster: 10,000 bank transfers over worker processes, one of which is shot, and the books balance.

    python -m examples.cluster

A sender puts 10,000 transfers as messages into Redis. Two worker processes, with 20 greenlets each, serve them over 10
connections to Postgres that they share. A third of the way on, one of them is killed with SIGKILL in the middle of
transfers; later a new one takes its place, as a service manager would see to. At the end Postgres and Redis themselves
are asked whether anything was lost, done twice, or left.

How a transfer has its effect exactly once, though its message may be delivered twice
    A worker that dies between the COMMIT and the acknowledgement leaves a message that is delivered again: no queue can
    know better. So each transfer has an id, which its transaction inserts first, under a unique index, as in
    `examples/bank`: the second attempt finds the id, moves nothing, and reports what is already true.

The files: `tasks.py` what a worker imports; `fleet.py` its processes; `sender.py` who sends; `verdict.py` what must be
true in the end; `__main__.py` puts them together.
"""
