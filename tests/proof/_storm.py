"""A storm: a plan carried out against one runner, by actors that come, wait, fail and are killed; and its books.

Invariant: each call is an `Entry`, answered once, with its own token or an error that something in the plan excuses.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import gevent
from gevent.event import Event

from gtasker import Runner, State
from gtasker.errors import RunnerStoppedError, TaskCancelledError
from tests import _env
from tests.ledger import LedgerResource, UnfitError
from tests.proof._entry import Entry, Situation
from tests.proof._plan import SIZES, Operation, Plan, draw_sizes
from tests.proof._world import SourError, World, quiet, settles

PATIENCE = 10.0  # seconds; only a hang waits for so long
MOST_ACTORS = 50


class HarshError(BaseException):
    """No `Exception`: what a task raises that thinks little of `except Exception`."""


class RefusedError(Exception):
    """A step of a hook that fails."""


class Storm:
    """One storm over one runner."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.chance = Random(f"chances of {plan.seed}")
        hooks = {hook: self._step(0.08) for hook in plan.hooks}
        failing = {door: self._step(often) for door, often in plan.failures.items()}
        self.world = World(**failing, **hooks)
        self.world.vouches = self.chance.random() < 0.7
        self.ctx = Event()
        self.runner: Runner[LedgerResource] = Runner(
            **self.world.stepped_options(), **plan.options, ctx=self.ctx, logger=quiet
        )
        self.world.bound = self.runner.config.max_resources
        self.sizes: dict[str, int] = {name: plan.options[name] for name in SIZES}
        self.most_workers = self.sizes["max_worker_count"]
        self.entries: list[Entry] = []
        self.handles: list[Entry] = []
        self.actors: dict[gevent.Greenlet[..., Any], Entry] = {}
        self.attempts = 0  # of workers, under way
        self.now = Situation(plan.options)
        self.faults: list[str] = []

    def blow(self) -> list[str]:
        """Carry out the plan, close the books, and return every fault. Switches."""
        before = _env.survey()
        with _env.hub_errors() as errors:
            closer: gevent.Greenlet[..., Any] | None = None
            for operation in self.plan.operations:
                if operation.number == self.plan.end_after:
                    closer = gevent.spawn(self._end)
                self._carry_out(operation)
            if closer is None:
                self._heals()
                closer = gevent.spawn(self._end)
            self._everybody_leaves(closer)
            self._close()
        left = _env.left_behind(before)
        return self.faults + errors + left + self.world.audit(most=10**6, most_creating=10**6)

    def fault(self, text: str) -> None:
        """Note a broken promise. Never switches."""
        self.faults.append(text)

    def _step(self, fails: float) -> Callable[[], None]:
        """What happens behind a door: nothing, a turn of the hub, a short time, a failure."""

        def step() -> None:
            drawn = self.chance.random()
            if drawn < 0.5:
                gevent.sleep(0 if drawn < 0.3 else drawn * 0.001)
            if self.chance.random() < fails:
                raise RefusedError

        return step

    # Calls

    def _carry_out(self, operation: Operation) -> None:
        if operation.is_call:
            self._spawn(Entry(operation), self._call)
        else:
            getattr(self, "_" + operation.name.replace(" ", "_"))(operation)
        if len(self.actors) > MOST_ACTORS:
            gevent.sleep(0.001)
        elif operation.pause is not None:
            gevent.sleep(operation.pause)

    def _spawn(self, entry: Entry, call: Callable[[Entry], object]) -> None:
        actor = gevent.Greenlet(self._act, entry, call)
        self.actors[actor] = entry
        actor.rawlink(self.actors.pop)
        actor.start()

    def _act(self, entry: Entry, call: Callable[[Entry], object]) -> None:
        self.entries.append(entry)
        try:
            with gevent.Timeout(entry.operation.limit) as timer:
                entry.thrown.append(timer)
                answer = call(entry)
        except BaseException as error:
            self._settle(entry, error)
        else:
            if answer != entry.token:
                self.fault(f"{entry} got the answer {answer!r}")
            entry.answers += 1

    def _settle(self, entry: Entry, error: BaseException) -> None:
        entry.answers += 1
        if not entry.may_get(error, self.now):
            self.fault(f"{entry} got {error!r} from {error.__cause__!r}")

    def _call(self, entry: Entry) -> object:
        operation, runner, fn = entry.operation, self.runner, self._body(entry)
        hows: dict[str, Any] = {"priority": operation.priority, "once": operation.once, "timeout": operation.timeout}
        if operation.name == "queue_task":
            return runner.queue_task(fn, **hows, key=operation.key)
        if operation.name == "submit":
            return self._submit(entry, fn, hows)
        if operation.name == "run_task":
            return runner.run_task(fn, timeout=operation.timeout)
        if operation.name == "lease":
            return self._lease(entry)
        return self._map(entry)

    def _submit(self, entry: Entry, fn: Callable[[LedgerResource], object], hows: dict[str, Any]) -> object:
        task = self.runner.submit(fn, **hows, key=entry.operation.key, callback=entry.call_back)
        task.add_done_callback(entry.call_back)
        entry.task = task
        self.handles.append(entry)
        return entry.token

    def _lease(self, entry: Entry) -> object:
        operation = entry.operation
        manager = self.runner.lease(timeout=operation.timeout, priority=operation.priority)
        if self.plan.leaks and operation.chance > 0.8:
            return self._body(entry)(manager.__enter__())
        with manager as thing:
            answer = self._body(entry)(thing)
            if operation.chance < 0.1:
                manager.discard()
        return answer

    def _map(self, entry: Entry) -> object:
        count = 1 + int(entry.operation.chance * 6)

        def fn(thing: LedgerResource, number: int) -> int:
            with self.world.use(thing):
                if number:
                    gevent.sleep(0)
            return number

        if entry.operation.name == "map":
            answers = self.runner.map(fn, range(count), priority=entry.operation.priority)
        else:
            answers = sorted(self.runner.imap_unordered(fn, range(count)))
        return entry.token if answers == list(range(count)) else answers

    # What tasks do

    def _body(self, entry: Entry) -> Callable[[LedgerResource], object]:
        act = getattr(self, "_be_" + entry.operation.body.replace(" ", "_"))

        def fn(thing: LedgerResource) -> object:
            if entry.is_settled:
                self.fault(f"{entry} began after its answer")
            entry.begun += 1
            by_worker = entry.operation.name in ("queue_task", "submit")
            self.attempts += by_worker
            if self.attempts > self.most_workers:
                self.fault(f"{self.attempts} attempts at once by at most {self.most_workers} workers")
            try:
                with self.world.use(thing):
                    act(entry)
            finally:
                self.attempts -= by_worker
            return entry.token

        return fn

    def _raise(self, entry: Entry, error: BaseException) -> None:
        entry.raised.append(error)
        raise error

    def _be_quick(self, entry: Entry) -> None:
        pass

    def _be_yields(self, entry: Entry) -> None:
        gevent.sleep(0)

    def _be_sleeps(self, entry: Entry) -> None:
        gevent.sleep(entry.operation.chance * 0.001)

    def _be_sour(self, entry: Entry) -> None:
        self._be_yields(entry)
        self._raise(entry, SourError(entry))

    def _be_unfit_once(self, entry: Entry) -> None:
        self._be_yields(entry)
        if entry.begun == 1:
            self._raise(entry, UnfitError(entry))

    def _be_unfit(self, entry: Entry) -> None:
        self._raise(entry, UnfitError(entry))

    def _be_harsh(self, entry: Entry) -> None:
        self._raise(entry, HarshError(entry))

    def _be_times_out(self, entry: Entry) -> None:
        self._raise(entry, gevent.Timeout())

    def _be_exits(self, entry: Entry) -> None:
        self._raise(entry, SystemExit() if entry.operation.chance < 0.5 else gevent.GreenletExit())

    def _be_stubborn(self, entry: Entry) -> None:
        try:
            gevent.sleep(0.001)
        except BaseException:  # what a user's bare except does
            gevent.sleep(0)

    def _be_nested(self, entry: Entry) -> None:
        names = ["run_task", "lease"]
        # Who holds a lease may wait for the worker it is from; who is a worker and waits for room, for itself.
        if entry.operation.name in ("queue_task", "submit") and "max_queued" not in self.plan.options:
            names += ["queue_task", "submit"]
        drawn = int(entry.operation.chance * 1000)
        name = names[drawn % len(names)]
        inner = Entry(
            Operation(
                number=entry.operation.number,
                name=name,
                body="quick" if drawn % 2 else "yields",
                pause=None,
                priority=10,
                once=False,
                timeout=0.005 if name in ("run_task", "lease") else None,
                limit=None,
                key=None,
                chance=0.5,
            ),
            nested=True,
        )
        inner.thrown = entry.thrown
        self.entries.append(inner)
        try:
            self._call(inner)
        except BaseException as error:
            self._settle(inner, error)
            if isinstance(error, Exception):
                entry.raised.append(error)
            raise
        inner.answers += 1

    # What is done in passing

    def _pick(self, chosen: list[Any], chance: float) -> Any:
        return chosen[int(chance * len(chosen))] if chosen else None

    def _kill_a_caller(self, operation: Operation) -> None:
        actor = self._pick(list(self.actors), operation.chance)
        if actor is not None:
            error = gevent.GreenletExit(operation.number)
            self.actors[actor].thrown.append(error)
            actor.kill(error, block=False)

    def _throw_at_a_caller(self, operation: Operation) -> None:
        actor = self._pick(list(self.actors), operation.chance)
        if actor is not None:
            gevent.get_hub().loop.run_callback(self._throw, actor, self.actors[actor])

    def _throw(self, actor: gevent.Greenlet[..., Any], entry: Entry) -> None:
        if entry in self.entries and not actor.dead:  # it has begun, so it is suspended in its call
            error = gevent.Timeout()
            entry.thrown.append(error)
            actor.throw(error)

    def _cancel(self, operation: Operation) -> None:
        entry = self._pick(self.handles[-12:], operation.chance)
        if entry is not None and entry.task.cancel():
            for each in self.entries:
                if each.task is entry.task or (each.operation.key is not None and each.token == entry.token):
                    each.cancelled = True
            if not isinstance(entry.task.exception, TaskCancelledError):
                self.fault(f"{entry} was cancelled and answers {entry.task.exception!r}")

    def _get(self, operation: Operation) -> None:
        entry = self._pick(self.handles, operation.chance)
        if entry is not None:
            self._spawn(Entry(operation), lambda getter: self._get_answer(getter, entry))

    def _get_answer(self, getter: Entry, entry: Entry) -> object:
        try:
            answer = entry.task.get(timeout=getter.operation.chance * 0.01)  # type: ignore[union-attr]
        except BaseException as error:
            if error is entry.task.exception or isinstance(error, gevent.Timeout):  # type: ignore[union-attr]
                return getter.token
            raise
        return getter.token if answer == entry.token else answer

    def _purge(self, operation: Operation) -> None:
        self.now.purged = True
        self.runner.purge()

    def _recycle(self, operation: Operation) -> None:
        self._unless_closed(self.runner.recycle)

    def _resize(self, operation: Operation) -> None:
        sizes = draw_sizes(Random(operation.chance))
        self.most_workers = max(self.most_workers, sizes["max_worker_count"])
        if self._unless_closed(lambda: self.runner.resize(**sizes)):
            self.world.bound = max(self.world.bound or 0, sizes["max_resources"])
            self.sizes = sizes

    def _pause(self, operation: Operation) -> None:
        if not self.now.closing:  # a pause would keep the one who stops from inside from being served
            self._unless_closed(self.runner.pause)

    def _resume(self, operation: Operation) -> None:
        self._unless_closed(self.runner.resume)

    def _unless_closed(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except RunnerStoppedError:
            if not self.now.closing:
                self.fault("refused before the end")
            return False
        return True

    def _look(self, operation: Operation) -> None:
        stats = self.runner.stats()
        if self.world.existing + stats.creating_resources <= self.sizes["max_resources"]:
            self.world.bound = self.sizes["max_resources"]  # what was made under an older, wider bound is gone
        if stats.active_workers > self.most_workers or stats.busy_workers > self.most_workers:
            self.fault(f"more than {self.most_workers} workers: {stats}")
        counts = {name: getattr(stats, name) for name in type(stats).__slots__ if name != "state"}
        if min(counts.values()) < 0:
            self.fault(f"a count below 0: {stats}")
        self.runner.metrics()
        self.runner.leases()
        repr(self.runner)

    # The end

    def _heals(self) -> None:
        """With nobody coming any more, everything gets done and all capacity is back (P6)."""
        workers, most_workers, reserve, most = self.sizes.values()
        # An idle burst worker or temporary resource may keep what the reserve lacks, for as long as `max_idle`.
        due = reserve if most >= most_workers + reserve or self.plan.options["max_idle"] < 1 else 0
        self._unless_closed(self.runner.resume)
        if self.runner.state is State.NEW:
            return

        def is_whole() -> bool:
            stats = self.runner.stats()
            waiting = stats.queued_tasks + stats.priority_tasks + stats.delayed_tasks + stats.waiting_leases
            return (
                waiting + stats.busy_workers == 0
                and not self.actors
                and stats.active_workers >= workers
                and stats.available_resources >= due
            )

        if not settles(is_whole, PATIENCE):
            self.fault(f"capacity did not come back: {self.runner.stats()}")

    def _end(self) -> None:
        plan, runner = self.plan, self.runner
        self.now.closing = True
        self.now.killing = plan.end in ("stop in time", "kill", "stop, kill")
        if plan.end == "stop":
            runner.stop()
        elif plan.end == "stop in time":
            runner.stop(plan.end_timeout)
        elif plan.end == "kill":
            runner.kill()
        elif plan.end == "stop, kill":
            stopping = gevent.spawn(runner.stop)
            gevent.sleep(plan.end_timeout)
            runner.kill()
            stopping.get()
        elif plan.end == "ctx":
            self.ctx.set()
        else:
            self._stop_inside()

    def _stop_inside(self) -> None:
        try:
            self.runner.resume()
            report = self.runner.queue_task(lambda thing: self.runner.stop())
        except Exception:
            return  # refused or failed like any other; the last stop does it
        if report.complete:
            self.fault("a stop from inside a task cannot be complete")

    def _everybody_leaves(self, closer: gevent.Greenlet[..., Any]) -> None:
        everybody = [closer, *self.actors]
        gevent.joinall(everybody, timeout=PATIENCE)
        for each in everybody:
            if not each.dead:
                self.fault(f"hangs: {self.actors.get(each, 'the end')} while {self.runner!r}")
        if closer.exception is not None:
            self.fault(f"{self.plan.end} raised {closer.exception!r}")
        gevent.killall(everybody, timeout=0.1)

    def _close(self) -> None:
        self.now.closing = True
        stopping = gevent.spawn(self.runner.stop)
        stopping.join(PATIENCE)
        report = stopping.value
        if report is None:
            self.fault(f"the last stop hangs: {self.runner!r}")
            self.runner.kill(0.1)
        elif not report.complete:
            self.fault(f"the last stop was not complete: {report}")
        else:
            self._balance()

    def _balance(self) -> None:
        stats = self.runner.stats()
        left = stats.live_resources + stats.creating_resources + stats.active_workers
        waiting = stats.waiting_leases + stats.queued_tasks + stats.priority_tasks + stats.delayed_tasks
        if left + waiting or self.runner.state is not State.CLOSED:
            self.fault(f"left after the end: {stats}")
        for entry in self.entries:
            self._close_entry(entry)

    def _close_entry(self, entry: Entry) -> None:
        if entry.answers != 1:
            self.fault(f"{entry} was answered {entry.answers} times")
        if entry.operation.once and entry.begun > 1:
            self.fault(f"{entry} was to begin once and began {entry.begun} times")
        task = entry.task
        if task is None:
            return
        if not task.ready():
            self.fault(f"{entry} was never answered")
        elif task.exception is not None:
            if not entry.may_get(task.exception, self.now):
                self.fault(f"{entry} holds {task.exception!r} from {task.exception.__cause__!r}")
        elif task.value != entry.token:
            self.fault(f"{entry} holds the answer {task.value!r}")
        if not settles(lambda: entry.called_back == 2, 1.0):
            self.fault(f"{entry} was called back {entry.called_back} times, not twice")
