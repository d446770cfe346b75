"""A turn of the event loop: how long tasks may keep it, and who is woken in it. One for each hub, for all runners.

Invariant: between two polls for I/O at most `ATTEMPTS` attempts begin, and none begins after `SPAN` seconds of them.
While `left` is 0 the timer is armed that begins the next turn: who counts down to 0 calls `checkpoint` in that step.

Jobs that are no attempts (resets, creations) have a span of their own, so that neither kind keeps the other from going
on; it is one for all runners, too.

Callbacks (`run_callback`, `sleep(0)`) do not let libev poll: it polls only between batches of them. So a spent turn
waits for a zero *timer*, which fires after a poll, and everything that wants to hand work over waits for that one.
The budget is spent in two halves. After each half one looks whether the loop has polled meanwhile (its iteration count
moved); if so, that half counts as the first of a new turn. Two halves without a poll spend the turn: so at most two
halves ever lie between two polls, wherever in a half the poll fell.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any, Protocol
from weakref import WeakValueDictionary

ATTEMPTS = 64
SPAN = 0.010  # seconds
CHORES = 0.005  # likewise, of jobs that are no attempts and never wait

_HALF_ATTEMPTS = ATTEMPTS // 2
_HALF_SPAN = SPAN / 2
# After this many wake-ups one looks at the clock, and gives way when they took longer than half a span.
_WAKES = 32


class Wakeable(Protocol):
    """Something that is woken in the hub. It looks again whether it still has to be: all may have changed since."""

    def wake(self) -> None:
        """Called once, in the hub. Must not block."""


class Caller(Wakeable, Protocol):
    """One who waits himself: to wake him is to switch to `waiter`, and to do no more if `extras` is None."""

    waiter: Any

    @property
    def extras(self) -> object:
        """What has to be done beside that, in the hub."""


class Dispatcher(Protocol):
    """A runner's part that has work to hand over when a new turn begins."""

    def dispatch(self) -> None:
        """Hand over what waits. Called in the hub. Must not block."""


class Turn:
    """The budget of one hub. `left` is what remains; at 0 nothing is handed over until the loop has polled."""

    __slots__ = (
        "__weakref__",
        "_began_at",
        "_chores_polls",
        "_chores_until",
        "_dispatchers",
        "_halves",
        "_hub",
        "_late",
        "_loop",
        "_polls",
        "_timer",
        "left",
        "relays",
        "scheduled",
        "until",
        "woken",
    )

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._loop = hub.loop
        self._polls = -1
        self._halves = 0
        self._began_at = 0.0  # of the present half
        self._timer = hub.loop.timer(0.0)
        self._chores_polls = -1
        self._chores_until = 0.0
        self._late: deque[Wakeable] = deque()  # to be woken after the next poll
        self.woken: deque[Wakeable] = deque()  # who was answered or served, and has not run since
        self.scheduled = False
        self.relays = 0  # how many callers may still wake the next one, before the hub is back
        self._dispatchers: list[Dispatcher] = []
        self.left = _HALF_ATTEMPTS
        self.until = 0.0

    def checkpoint(self, now: float) -> None:
        """Begin the next half, or spend the turn. To be called when `left` is 0 or `until` is past. Never switches."""
        polls = self._loop.iteration
        if polls != self._polls:
            self._polls = polls
            self._halves = 1
        else:
            self._halves += 1
        if self._halves < 2:
            self.left = _HALF_ATTEMPTS
            # Both halves together last for `SPAN`; a half that lasted for longer held idle time, or one long attempt.
            self.until = self._began_at + SPAN if now - self._began_at <= SPAN else now + _HALF_SPAN
            self._began_at = now
        else:
            self.left = 0
            if not self._timer.active:
                self._timer.start(self._begin)

    def soon(self, wakeable: Wakeable) -> None:
        """Have `wakeable.wake()` called in the hub, after those asked for before. Never switches."""
        self.woken.append(wakeable)
        if not self.scheduled:
            self.schedule()

    def after_poll(self, wakeable: Wakeable) -> None:
        """Have `wakeable.wake()` called in the hub once the loop has polled. Never switches."""
        self._late.append(wakeable)
        if not self._timer.active:
            self._timer.start(self._begin)

    def chores_until(self, now: float) -> float:
        """Until when jobs that never wait may keep the loop; what is left then waits for a poll. Never switches."""
        polls = self._loop.iteration
        if polls != self._chores_polls:
            self._chores_polls = polls
            self._chores_until = now + CHORES
        return self._chores_until

    def rest(self, kind: type[Caller]) -> None:
        """Wait to be woken, as one of `kind`. Switches to the next to be woken, if that is one too; else to the hub.

        So callers who were answered together go on one after another, with one switch each in place of two. The one
        that was switched to is kept until this one is woken itself.
        """
        woken = self.woken
        if self.relays and woken:
            following: Any = woken.popleft()
            if type(following) is kind and following.extras is None:
                self.relays -= 1
                waiter, following.waiter = following.waiter, None
                del following  # its value is not to be kept by who waits here
                if waiter is not None:
                    waiter.switch()
                return
            woken.appendleft(following)
        self._hub.switch()

    def schedule(self) -> None:
        """Have those in `woken` woken. Never switches."""
        self.scheduled = True
        self._loop.run_callback(self._wake)

    def join(self, dispatcher: Dispatcher) -> None:
        """Have `dispatcher.dispatch()` called whenever a new turn begins."""
        self._dispatchers.append(dispatcher)

    def leave(self, dispatcher: Dispatcher) -> None:
        """Take back `join`. With nobody left at work there is no turn to spend, and no timer."""
        if dispatcher in self._dispatchers:
            self._dispatchers.remove(dispatcher)
        if not self._dispatchers:
            self.left = _HALF_ATTEMPTS
            if not self._late:
                self._timer.stop()

    def renounce(self) -> None:
        """In a forked child: forget what was under way in the parent. Never switches."""
        self.woken.clear()
        self._late.clear()
        self._dispatchers.clear()
        self._timer.stop()
        self.left = _HALF_ATTEMPTS

    def _begin(self) -> None:
        self._timer.stop()
        self._polls = self._loop.iteration
        self._halves = 0
        self.left = _HALF_ATTEMPTS
        self._began_at = monotonic()
        self.until = self._began_at + _HALF_SPAN
        if self._dispatchers:  # the first of this turn is the last of the next: all runners have their share
            self._dispatchers.append(self._dispatchers.pop(0))
        for dispatcher in tuple(self._dispatchers):
            try:
                dispatcher.dispatch()
            except BaseException as error:
                self._hub.handle_error(dispatcher, type(error), error, error.__traceback__)
        self._late.rotate(-1)  # who had the time of this turn comes last in the next
        while self._late:
            self.soon(self._late.popleft())

    def _wake(self) -> None:
        woken = self.woken
        started = monotonic()
        done = 0
        try:
            while woken:
                self.relays = _WAKES - done - 1
                woken.popleft().wake()
                done = _WAKES - self.relays
                if done >= _WAKES:
                    if monotonic() - started > _HALF_SPAN:
                        break
                    done = 0
        except BaseException as error:
            self._hub.handle_error(self, type(error), error, error.__traceback__)
        finally:
            self.relays = 0
            self.scheduled = False
            if woken:
                self.schedule()


# By the id of the hub; a turn lives as long as a runner's rooms know it, and keeps its hub for as long.
_turns: WeakValueDictionary[int, Turn] = WeakValueDictionary()


def turn_of(hub: Any) -> Turn:
    """The one turn of `hub`."""
    turn = _turns.get(id(hub))
    if turn is None:
        turn = _turns[id(hub)] = Turn(hub)
    return turn
