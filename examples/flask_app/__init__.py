"""A small shop: Flask, psycopg2 and a runner, served by Gunicorn. `python -m examples.flask_app` tries it."""
