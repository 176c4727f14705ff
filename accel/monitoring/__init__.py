"""What happened, counted: a report of one realm's ledger, its export, targets, and alerts that are sent."""
