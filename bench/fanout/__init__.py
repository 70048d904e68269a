"""What telling thousands costs a server, beside others and a loop in C: the fan-out benchmark."""
