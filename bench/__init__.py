"""Measurements of the running programs, from outside.

RULE: imports pushlab and the lab; only compare.py and tests import it.
"""
