"""Loopback clouds: they speak a provider's real protocol and really run the work, on this machine.

Everything that comes out of here is of realm ``sandbox``. Nothing imports this package but its command.
"""
