"""The demo: the page's app, its instruments and its sources.

RULE: imports pushlab, and nothing of the bench; the library works without it.
"""
