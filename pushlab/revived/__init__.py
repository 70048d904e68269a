"""The APIs of libraries that no longer work, on ours.

RULE: one library per module, by its name; a program changes its import line alone. Flask-Sockets'
API is `pushlab.sockets`.
"""
