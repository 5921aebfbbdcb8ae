"""Load tests with Locust: profiles as data, open and closed load, answers that are checked, objectives that decide.

Locust replaces parts of Python's standard library when it is imported (gevent). Only `generator` and `callers` import
it, and they run in processes of their own.
"""
