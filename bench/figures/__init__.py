"""The figures in the README and the docs, made from raw results: `make figures`."""
