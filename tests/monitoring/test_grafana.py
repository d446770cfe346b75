"""The Grafana dashboard asks for nothing that is not exported, and for all that is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gtasker.integrations.prometheus import install
from tests.monitoring.conftest import MakeBusy

BOARD = json.loads((Path(__file__).parents[2] / "grafana" / "gtasker.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
METRIC = re.compile(r"\b((?:gtasker|db_client_connection)_[a-z_]+)(?:\{([^}]*)\})?")
# Labels that look like metrics.
LABELS = {"db_client_connection_pool_name", "db_client_connection_state"}


def queries() -> Iterator[str]:
    """Each query of the dashboard, the one for the names of runners included."""
    for panel in PANELS:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["definition"] for variable in BOARD["templating"]["list"] if "definition" in variable)


@pytest.fixture
def exported(busy: MakeBusy, closing: Callable[[Any], Any]) -> dict[str, set[str]]:
    """The labels of each sample that Prometheus would read."""
    busy(completed=1, failed=1, name="shop")
    registry = CollectorRegistry()
    closing(install(registry=registry))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def test_every_query_asks_for_what_there_is(exported: dict[str, set[str]]) -> None:
    for query in queries():
        metrics = [(name, labels) for name, labels in METRIC.findall(query) if name not in LABELS]
        assert metrics, query
        for name, labels in metrics:
            assert name in exported, query
            assert set(re.findall(r"(\w+)=", labels)) <= exported[name], query


def test_every_instrument_is_shown(exported: dict[str, set[str]]) -> None:
    asked = {name for query in queries() for name, _ in METRIC.findall(query)}

    assert {name for name in exported if not name.endswith(("_created", "_sum", "_count", "_bucket"))} <= asked
    assert {name for name in exported if name.endswith("_bucket")} <= asked


def test_panels_have_a_place_of_their_own_and_a_data_source() -> None:
    places: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & places, panel["title"]
        assert grid["x"] + grid["w"] <= 24
        places |= cells
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in PANELS)
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_levels_are_not_rated_and_counters_are() -> None:
    for query in queries():
        for name, _ in METRIC.findall(query):
            if name not in LABELS and name != "gtasker_worker_base":
                is_rated = bool(re.search(rf"rate\({name}\b", query))
                assert is_rated is name.endswith(("_total", "_bucket")), query
