"""`python -m pushlab.measure.fanout`."""

from pushlab.measure.fanout.benchmark import main

main()
