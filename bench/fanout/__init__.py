"""The fan-out benchmark: thousands of subscribers, beside other servers and a loop in C."""
