"""Embed, search, rerank, answer: one synchronous implementation each, the same here and at the far end."""
