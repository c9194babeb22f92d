"""Loads on any server that speaks OpenAI's completions, and what its clients see."""
