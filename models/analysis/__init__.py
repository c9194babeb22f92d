"""The memory read as tokens, keys and values (MemoryLLM, section 3): which cells a token reads, and what they store.

`tolbooth inspect` prints what is found here. What needs torch is in `ablation.py` alone: the API process looks tokens
up without it. k-means and t-SNE come from scikit-learn, which is in the extra `analysis`.
"""
