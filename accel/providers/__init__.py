"""Places that run work, one file each. An adapter speaks its provider's protocol and nothing else.

Providers neither retry (``routing.cascade`` does) nor write to the ledger (``fleet`` and
``gpu_accelerator`` do), and import their SDK where they use it.
"""
