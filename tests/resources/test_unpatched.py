"""What the integrations say where they would stop every greenlet."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from gtasker.integrations import redis
from gtasker.integrations.http import httpx, requests, urllib3
from tests import _env
from tests.resources._scenes import play_here


@pytest.mark.parametrize("resource", [redis.resource, httpx.resource, requests.resource, urllib3.resource])
def test_a_client_made_of_sockets_that_are_not_patched_is_warned_of(resource: Callable[[], Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resource()

    told = [warning for warning in caught if "blocks the whole event loop" in str(warning.message)]
    assert len(told) == (0 if _env.PATCHED else 1)
    assert all(warning.filename == __file__ for warning in told)


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        ("patched_first", "cooperative"),
        ("imported_too_early", "psycopg was imported before gevent had patched"),
        ("never_patched", "select, socket, threading not patched"),
    ],
)
def test_psycopg_must_have_been_imported_after_gevent_had_patched(scene: str, said: str) -> None:
    assert said in play_here(scene, patched=False)
