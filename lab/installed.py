"""Importing this stops the program with one clear line if a package that it needs is missing."""

from lab.requirements_check import NEEDED, demand

__all__ = ["NEEDED"]

demand()
