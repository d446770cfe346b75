"""redis-py for a runner: each resource is a client with one connection of its own.

Invariant: a client is used again only when nothing of its last use has the connection any more, and a connection with
something unread is given up before the next command; so nobody gets the answer to another's command.

    from gevent import monkey; monkey.patch_all()

    from gtasker import Runner
    from gtasker.integrations.redis import resource

    with Runner(**resource("redis://localhost:6379/0"), worker_count=10) as runner:
        runner.queue_task(lambda client: client.incr("visits"))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from gtasker.integrations._frames import let_go_of_frames
from gtasker.integrations._patched import warn_if_unpatched

__all__ = ["BusyClientError", "ResourceOptions", "is_healthy", "resource"]

_LOST = (
    exceptions.ConnectionError,  # a server that is still loading, and a password that is not valid any more, included
    exceptions.TimeoutError,  # the answer may still come
    exceptions.InvalidResponse,  # the two are out of step
    exceptions.ReadOnlyError,  # who was the master has become a replica
)


# Commands that change what the next ones are answered, with those that end it. redis-py gives its pipelines and
# subscriptions connections of their own; these are for who sends them by hand.
_BEGINS = frozenset({"MULTI", "WATCH", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR", "CLIENT REPLY"})
_ENDS = frozenset({"EXEC", "DISCARD", "UNWATCH", "RESET"})


class BusyClientError(Exception):
    """A use ended, and a pipeline or a subscription of it still has the client's connection, or it is in its middle."""


class _Client(redis.Redis):
    """A client that knows whether a command sent by hand has put its session into another mode."""

    mode: str | None = None  # the command

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command. Switches."""
        name = str(args[0]).upper()
        if name == "CLIENT" and len(args) > 1:
            name = f"CLIENT {args[1]}".upper()
        if name in _BEGINS:
            self.mode = name
        elif name in _ENDS:
            self.mode = None
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


class ResourceOptions(TypedDict):
    """The fields of ``gtasker.Config`` that ``resource`` fills in."""

    on_create: Callable[[], redis.Redis]
    on_destroy: Callable[[redis.Redis], None]
    check_health: Callable[[BaseException], bool]
    check_resource: Callable[[redis.Redis], bool]
    reset: Callable[[redis.Redis], None]
    on_forget: Callable[[redis.Redis], None]
    keepalive: float | None


def resource(
    url: str = "redis://localhost:6379/0",
    *,
    make: Callable[[], redis.Redis] | None = None,
    keepalive: float | None = 60.0,
    **options: Any,
) -> ResourceOptions:
    """Return the options for ``Config(**resource(url), worker_count=10)``. Warns where sockets are not patched.

    ``options`` go to redis-py's connections (``decode_responses``, ``socket_timeout``, ``client_name``, TLS, ...).
    Two of its defaults are others here. ``max_connections`` is 1: commands one after another, pipelines included, need
    no more, and a use that asks for a second one while a pipeline or a subscription has the first gets redis-py's
    error; a higher number is a bound for each client. ``retry`` is off: the runner tries again, with another client.
    ``make`` makes the client in place of ``url`` and ``options``: one of a Sentinel's, say.
    ``keepalive``: seconds after which an idle client is asked for a sign of life; None: never.

    What a use has set in its session (SELECT, CLIENT) stays. An interrupted use costs the client, and so does one that
    leaves a pipeline, a subscription, or a MULTI or WATCH sent by hand unfinished (BusyClientError in the log); clients
    of ``make`` are not watched for the latter.
    """
    warn_if_unpatched("redis-py", stacklevel=2)

    def make_from_url() -> redis.Redis:
        settings = {"max_connections": 1, "retry": Retry(NoBackoff(), 0), **options}
        return _Client(connection_pool=redis.ConnectionPool.from_url(url, **settings))

    make_client = make or make_from_url

    def create() -> redis.Redis:
        client = make_client()
        try:
            client.ping()
        except BaseException as error:
            _destroy(client)
            let_go_of_frames(error)
            raise
        return client

    return ResourceOptions(
        on_create=create,
        on_destroy=_destroy,
        check_health=is_healthy,
        check_resource=_answers,
        reset=_reset,
        on_forget=_forget,
        keepalive=keepalive,
    )


def is_healthy(error: BaseException) -> bool:
    """Tell whether a client is still good after ``error``: the ``check_health`` of ``resource``. Never switches.

    Unhealthy are a lost or refused connection, a time-out, a reply out of step, and the refusal of a replica to write.
    What a command is told off for (a wrong type, a lost WATCH) is healthy, and so is a use that asked for more
    connections than its client may have.
    """
    return not isinstance(error, _LOST) or isinstance(error, exceptions.MaxConnectionsError)


def _destroy(client: redis.Redis) -> None:
    client.close()
    client.connection_pool.disconnect()


def _answers(client: redis.Redis) -> bool:
    return bool(client.ping())


def _reset(client: redis.Redis) -> None:
    """Raise BusyClientError if something still has the connection, or its session. Never switches.

    Closing that would not do: it may be used on, and by then the client is somebody else's.
    """
    held = getattr(client.connection_pool, "_in_use_connections", None)
    if held and held != {client.connection}:
        raise BusyClientError("a pipeline or a subscription outlived its use, and has the client's connection")
    mode = getattr(client, "mode", None)
    if mode is not None:
        raise BusyClientError(f"a {mode} outlived its use: the next commands would get other answers than theirs")


def _forget(client: redis.Redis) -> None:
    """In a forked child: drop the connections, which redis-py closes there without a word to the server."""
    client.connection_pool.reset()
