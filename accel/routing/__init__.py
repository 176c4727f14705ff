"""Which offer, in which order, and what after a failure. Pure but for the cascade's clock."""

from accel.routing.cascade import Tried, cascade
from accel.routing.policy import Inputs, State, rank, replay, same
from accel.routing.standing import Measured, Standing

__all__ = ["Inputs", "Measured", "Standing", "State", "Tried", "cascade", "rank", "replay", "same"]
