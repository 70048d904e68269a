"""RULE reads results, measures nothing."""
