"""The demo: 5,000 bank transfers over 20 connections that are shot under way, and the books balance.

    python -m examples.bank

Each of 5,000 greenlets moves money between two accounts, in a transaction, over at most 20 connections. Meanwhile half
of the connections are terminated, twice, while at least 20 transfers are in flight; queries are cancelled on the
server; and impatient callers leave in the middle of theirs. At the end the database itself is asked whether anything
was lost, or done twice.

How a transfer has its effect exactly once, though it may be tried again
    A connection that breaks during COMMIT leaves its caller without an answer to the question whether the transfer was
    made. Trying again could move the money twice, and not trying again could move it never. So every transfer has an
    id, which its transaction inserts first, under a unique index: a second attempt finds the id of the first, moves
    nothing, and reports what is already true. With such an id a retry is harmless. (Without one, say `once=True`, and
    answer the question yourself.)

    A caller that got an error (or left) asks in the same way, by inserting its id as void. If that succeeds, the
    transfer was not made, and never will be: an attempt that is still under way somewhere will find the void id. If
    the id is there already, it was made. The unique index makes the one wait for the other's end, so that there is no
    moment in between.

The files: `transfers.py` the bank; `callers.py` who uses it, and what they are told; `trouble.py` who shoots;
`census.py` another process that counts the sessions; `screen.py` the live table; `verdict.py` what must be true in the
end; `__main__.py` puts them together.
"""
