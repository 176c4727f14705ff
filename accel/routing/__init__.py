"""Which offer, in which order, and what after a failure. Pure but for the cascade's clock."""

from accel.routing.cascade import Tried, cascade
from accel.routing.estimate import Measured
from accel.routing.policy import Inputs, State, rank, replay, same

__all__ = ["Inputs", "Measured", "State", "Tried", "cascade", "rank", "replay", "same"]
