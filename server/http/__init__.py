"""The OpenAI-compatible API: HTTP in front of an engine in another process.

Knows wire formats, limits and connections. Knows no tensors and imports without torch.
"""
