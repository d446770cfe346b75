"""The ledger sees what it is there to see: each misuse is raised and kept, and honest use balances."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

from tests.ledger import CreateFailedError, HeldTask, Ledger, LedgerError, LedgerResource, UnfitError, touch


@pytest.fixture
def books() -> Ledger:
    """A ledger that nobody checks at the test's end."""
    return Ledger(bound=2)


def test_honest_use_balances(books: Ledger) -> None:
    first, second = books.create(), books.create()
    value = touch(first, "value")
    books.destroy(first)
    books.destroy(second)

    books.assert_balanced()
    assert value == "value"
    assert (books.created, books.destroyed, books.existing, books.peak) == (2, 2, 0, 2)
    assert (books.uses, books.peak_in_use, books.in_use) == (1, 1, 0)


def use_twice_at_once(books: Ledger, resource: LedgerResource) -> None:
    with resource.use(), resource.use():
        pass


def use_after_destroy(books: Ledger, resource: LedgerResource) -> None:
    books.destroy(resource)
    touch(resource, None)


def destroy_twice(books: Ledger, resource: LedgerResource) -> None:
    books.destroy(resource)
    books.destroy(resource)


def destroy_in_use(books: Ledger, resource: LedgerResource) -> None:
    with resource.use():
        books.destroy(resource)


def use_after_unhealthy_error(books: Ledger, resource: LedgerResource) -> None:
    with pytest.raises(UnfitError), resource.use():
        raise UnfitError
    touch(resource, None)


def use_after_interruption(books: Ledger, resource: LedgerResource) -> None:
    with pytest.raises(gevent.GreenletExit), resource.use():
        raise gevent.GreenletExit
    touch(resource, None)


def probe_in_use(books: Ledger, resource: LedgerResource) -> None:
    with resource.use():
        books.probe(resource)


def reset_after_destroy(books: Ledger, resource: LedgerResource) -> None:
    books.destroy(resource)
    books.reset(resource)


def exceed_the_bound(books: Ledger, resource: LedgerResource) -> None:
    books.create()
    books.create()


def forget_what_is_gone(books: Ledger, resource: LedgerResource) -> None:
    books.destroy(resource)
    books.forget(resource)


@pytest.mark.parametrize(
    "misuse",
    [
        use_twice_at_once,
        use_after_destroy,
        destroy_twice,
        destroy_in_use,
        use_after_unhealthy_error,
        use_after_interruption,
        probe_in_use,
        reset_after_destroy,
        exceed_the_bound,
        forget_what_is_gone,
    ],
)
def test_misuse_is_raised_and_kept(books: Ledger, misuse: Callable[[Ledger, LedgerResource], None]) -> None:
    resource = books.create()

    with pytest.raises(LedgerError) as caught:
        misuse(books, resource)
    for one in list(books.live.values()):
        books.destroy(one)

    assert books.faults == [str(caught.value)]
    with pytest.raises(LedgerError):
        books.assert_balanced()


def test_what_was_never_destroyed_unbalances_the_books(books: Ledger) -> None:
    books.create()

    with pytest.raises(LedgerError, match="1 exist"):
        books.assert_balanced()


def test_what_was_abandoned_as_expected_does_not(books: Ledger) -> None:
    books.create()
    books.abandoned = 1

    books.assert_balanced()


def test_a_resource_in_use_unbalances_the_books(books: Ledger) -> None:
    resource = books.create()

    with resource.use(), pytest.raises(LedgerError, match="in use"):
        books.assert_balanced()


def test_an_interrupted_resource_that_was_vouched_for_may_be_used(books: Ledger) -> None:
    resource = books.create()
    with pytest.raises(gevent.GreenletExit), resource.use():
        raise gevent.GreenletExit

    vouched = books.vouch(resource)

    assert vouched
    assert touch(resource, 1) == 1


def test_an_interrupted_resource_that_was_not_vouched_for_stays_unfit(books: Ledger) -> None:
    resource = books.create()
    resource.spoil("interrupted")
    books.vouches = False

    assert not books.vouch(resource)
    with pytest.raises(LedgerError, match="interrupted"):
        touch(resource, 1)


def test_an_ordinary_error_leaves_a_resource_fit(books: Ledger) -> None:
    resource = books.create()
    with pytest.raises(KeyError), resource.use():
        raise KeyError

    assert books.check_health(KeyError())
    assert not books.check_health(UnfitError())
    assert touch(resource, 1) == 1


def test_a_create_that_fails_or_is_killed_leaves_no_trace(books: Ledger) -> None:
    books.creating.fail(times=1)
    with pytest.raises(CreateFailedError):
        books.create()
    books.creating.hold()
    creator = gevent.spawn(books.create)
    books.creating.wait_entered(2)
    assert books.existing == 1

    creator.kill()

    assert books.existing == books.created == 0
    books.assert_balanced()


def test_a_destroy_that_fails_or_is_killed_is_a_destroy(books: Ledger) -> None:
    books.destroying.fail(OSError, times=1)
    with pytest.raises(OSError, match="told to fail"):
        books.destroy(books.create())
    books.destroying.hold()
    destroyer = gevent.spawn(books.destroy, books.create())
    books.destroying.wait_entered(2)

    destroyer.kill()

    assert books.destroyed == 2
    books.assert_balanced()


def test_a_stale_resource_fails_its_probe(books: Ledger) -> None:
    resource = books.create()

    fresh = books.probe(resource)
    resource.stale = True

    assert fresh
    assert not books.probe(resource)


def test_a_held_door_lets_nobody_through_until_released(books: Ledger) -> None:
    books.creating.hold()
    creators = [gevent.spawn(books.create) for _ in range(2)]
    books.creating.wait_entered(2)
    held = (books.creating.inside, books.created, books.existing)

    books.creating.release()
    gevent.joinall(creators)

    assert held == (2, 0, 2)
    assert (books.creating.inside, books.created) == (0, 2)


def test_a_healed_door_works_again(books: Ledger) -> None:
    books.creating.fail(OSError("down"))
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            books.create()

    books.creating.heal()

    assert books.create().number == 1


def test_a_held_task_begins_waits_and_returns(books: Ledger) -> None:
    resource = books.create()
    task = HeldTask("value")
    caller = gevent.spawn(task, resource)

    task.wait_begun()
    user = resource.user
    task.release()

    assert user is not None
    assert user.greenlet is caller
    assert caller.get() == "value"
    assert task.begun == 1
