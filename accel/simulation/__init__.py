"""The virtual world: the production engine on a clock that jumps, against providers that are drawn."""

from accel.simulation.campaign import campaign
from accel.simulation.loop import DeadlockError, run_virtual
from accel.simulation.result import Simulated
from accel.simulation.run import simulate

__all__ = ["DeadlockError", "Simulated", "campaign", "run_virtual", "simulate"]
