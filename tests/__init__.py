"""Tests against real servers with real clients."""
