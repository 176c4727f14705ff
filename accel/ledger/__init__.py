"""The durable record: intents, leases, jobs, attempts, charges, decisions and measurements, in SQLite."""

from accel.ledger.jobs import Job, JobStep
from accel.ledger.store import Ledger

__all__ = ["Job", "JobStep", "Ledger"]
