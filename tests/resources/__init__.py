"""Tests of the resources beside psycopg2: SQLAlchemy, psycopg 3, redis-py, HTTP clients; each with the real thing."""
