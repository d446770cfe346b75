"""The pools of the battery, by the name their column bears.

Invariant: an adapter is imported in the process that tests it and in no other.
"""

from __future__ import annotations

import importlib

from benchmarks.rivals.pool import Kind

POOLS = {
    "gtasker queue_task": "gtasker:Queue",
    "gtasker run_task": "gtasker:RunTask",
    "gtasker lease": "gtasker:Lease",
    "psycopg_pool": "psycopg_pool:PsycopgPool",
    "SQLAlchemy QueuePool": "sqlalchemy:SQLAlchemyPool",
    "redis-py BlockingConnectionPool": "redis:RedisPool",
    "DBUtils PooledDB": "dbutils:DBUtilsPool",
    "django-db-geventpool": "django_geventpool:DjangoGeventPool",
    "urllib3": "urllib3:Urllib3Pool",
    "psycopg2 ThreadedConnectionPool": "psycopg2_pool:Psycopg2Pool",
}


def load(name: str) -> Kind:
    """Return the adapter of that column."""
    module, kind = POOLS[name].split(":")
    adapter: Kind = getattr(importlib.import_module(f"benchmarks.rivals.{module}"), kind)
    return adapter
