"""accel: what a GPU would buy a retrieval workload, on which provider, at what price — and runs it there."""

__version__ = "0.1.0"
