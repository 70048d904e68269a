"""Measurements of the running programs, from outside."""
