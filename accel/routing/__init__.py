"""Which offer, in which order, and what after a failure. Pure but for the cascade's clock."""

from accel.routing.cascade import cascade
from accel.routing.fitness import sure
from accel.routing.health import Health
from accel.routing.policy import Inputs, State, rank, replay, same
from accel.routing.standing import Measured, Standing
from accel.routing.tries import Books, Tried

__all__ = [
    "Books", "Health", "Inputs", "Measured", "Standing", "State", "Tried", "cascade", "rank", "replay",
    "same", "sure",
]  # fmt: skip
