"""The shop's application: each route says how urgent its work is, and nothing else about connections.

Run by Gunicorn as `examples.flask_app.app:create_app()`, with the database in `SHOP_DSN`.
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, request

from gtasker import Priority, Runner
from gtasker.integrations.psycopg2 import GreenConnection, make_cooperative, resource
from gtasker.integrations.wsgi import NOT_NOW, unavailable

PRODUCTS = "SELECT id, name, stock FROM products ORDER BY id"
TAKE = "UPDATE products SET stock = stock - %(count)s WHERE id = %(product)s AND stock >= %(count)s"
ORDER = "INSERT INTO orders (id, product, count) VALUES (%(order)s, %(product)s, %(count)s) ON CONFLICT DO NOTHING"
REPORT = "SELECT name, coalesce(sum(count), 0) FROM products p LEFT JOIN orders o ON o.product = p.id GROUP BY name"


def list_products(connection: GreenConnection) -> list[dict[str, Any]]:
    """All products."""
    with connection.cursor() as cursor:
        cursor.execute(PRODUCTS)
        return [{"id": id_, "name": name, "stock": stock} for id_, name, stock in cursor.fetchall()]


def place_order(connection: GreenConnection, order: dict[str, Any]) -> bool:
    """Take from the stock, once for each order's id however often it is sent; false when there is not enough."""
    with connection, connection.cursor() as cursor:  # one transaction
        cursor.execute(ORDER, order)
        if not cursor.rowcount:
            return True  # sent before
        cursor.execute(TAKE, order)
        if not cursor.rowcount:
            connection.rollback()
            return False
        return True


def report_sales(connection: GreenConnection) -> dict[str, int]:
    """How much of each product was ordered."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.2)")  # it is a large shop
        cursor.execute(REPORT)
        return dict(cursor.fetchall())


def ping(connection: GreenConnection) -> None:
    """Hear from the database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def create_app() -> Flask:
    """Make the application, and its runner, which starts in each worker process on its first use."""
    make_cooperative()
    app = Flask(__name__)
    runner: Runner[GreenConnection] = Runner(
        **resource(os.environ["SHOP_DSN"], application_name="shop"),
        name="shop",
        worker_count=8,
        max_worker_count=16,
        burst_task_threshold=20,
        resource_pool_size=2,  # for /healthz
        max_queued=500,  # more than this is answered 503 at once
        enqueue_timeout=0,
        task_timeout=10,
    )
    for kind in NOT_NOW:
        app.register_error_handler(kind, unavailable)

    @app.get("/products")
    def products() -> Any:
        return runner.queue_task(list_products)

    @app.post("/orders/<order>")
    def orders(order: str) -> Any:
        wish = {"order": order, "product": request.args.get("product", type=int), "count": 1}
        # Tried again after a lost connection, which is safe here: the order's id is unique.
        taken = runner.queue_task(place_order, wish, priority=Priority.HIGH)
        return ({"order": order}, 201) if taken else ({"error": "out of stock"}, 409)

    @app.get("/report")
    def report() -> Any:
        return runner.queue_task(report_sales, priority=Priority.LOW)

    @app.get("/healthz")
    def healthz() -> Any:
        # Past the backlog: a busy shop is a healthy one.
        runner.run_task(ping, timeout=2)
        stats = runner.stats()
        return {"state": stats.state.value, "queued": stats.queued_tasks, "connections": stats.live_resources}

    return app
