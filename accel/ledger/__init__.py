"""The durable record: intents, leases, jobs, attempts, money, decisions, requests, alerts, measurements."""

from accel.ledger.budgets import Budgets, Limits, Period
from accel.ledger.jobs import Job, JobStep
from accel.ledger.store import Ledger

__all__ = ["Budgets", "Job", "JobStep", "Ledger", "Limits", "Period"]
