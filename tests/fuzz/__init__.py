"""Random problems for the public functions: a right result or a right error, nothing else.

`python -m tests.fuzz` runs as many as one asks for; `test_fuzz.py` runs a few with the tests.
"""
