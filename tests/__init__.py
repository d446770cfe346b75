"""The suite: each test's name is a promise; run it with `make test`."""
