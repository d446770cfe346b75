"""Tests of tasks that run in other processes: real servers, real workers."""
