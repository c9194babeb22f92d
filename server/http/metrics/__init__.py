"""The server's figures in the words of Prometheus.

Every family is declared once, in `memory.py` or `serving.py`, with where its values come from: the engine's snapshots,
or what is counted here, request by request. `docs/metrics.md` lists them all.
"""
