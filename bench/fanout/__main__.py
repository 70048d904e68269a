"""`python -m bench.fanout`."""

from bench.fanout.benchmark import main

main()
