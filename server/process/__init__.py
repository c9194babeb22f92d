"""The engine in a process of its own, and typed messages to it over a local socket.

Knows processes, sockets and how an engine is started again. Knows nothing of HTTP or of tensors; `client.py`, the side
of those who ask, imports without torch.
"""
