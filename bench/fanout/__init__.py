"""The fan-out benchmark: thousands of subscribers."""
