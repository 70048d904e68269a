"""Pushlab: what serve.py, serve2.py and every other server of the same app share."""
