-- One file per realm. Amounts are integers: nano-dollars, or milliseconds of free GPU quota.
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE IF NOT EXISTS account (
  name  TEXT PRIMARY KEY,
  unit  TEXT NOT NULL CHECK (unit IN ('nano_usd', 'gpu_ms')),
  cap   INTEGER CHECK (cap IS NULL OR cap >= 0),
  spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
  held  INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
  -- what a provider charged above what was reserved: recorded, never hidden in `spent`
  over  INTEGER NOT NULL DEFAULT 0 CHECK (over >= 0),
  CHECK (cap IS NULL OR spent + held <= cap)
) STRICT;

CREATE TABLE IF NOT EXISTS hold (
  id      TEXT PRIMARY KEY,
  account TEXT NOT NULL REFERENCES account (name),
  amount  INTEGER NOT NULL CHECK (amount >= 0),
  task_id TEXT NOT NULL,
  made_at TEXT NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS charge (
  hold_id TEXT PRIMARY KEY,             -- a hold settles at most once
  account TEXT NOT NULL REFERENCES account (name),
  amount  INTEGER NOT NULL CHECK (amount >= 0),
  basis   TEXT NOT NULL CHECK (basis IN ('estimated', 'billed')),
  rate    TEXT NOT NULL,                -- the Rate, frozen with its date and source
  task_id TEXT NOT NULL,
  at      TEXT NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS lease (
  intent_id TEXT PRIMARY KEY,
  provider  TEXT NOT NULL,
  name      TEXT NOT NULL UNIQUE,
  state     TEXT NOT NULL CHECK (state IN ('intended', 'open', 'released', 'absent', 'abandoned')),
  intent    TEXT NOT NULL,
  lease     TEXT,
  note      TEXT NOT NULL DEFAULT '',
  at        TEXT NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS job (
  id        TEXT PRIMARY KEY,
  task      TEXT NOT NULL,
  folder    TEXT NOT NULL,
  step      TEXT NOT NULL,
  tries     INTEGER NOT NULL DEFAULT 0,
  decision  TEXT NOT NULL DEFAULT '',
  intent_id TEXT NOT NULL DEFAULT '',
  error     TEXT NOT NULL DEFAULT '',
  made_at   TEXT NOT NULL,
  at        TEXT NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS attempt (
  id       TEXT PRIMARY KEY,
  task_id  TEXT NOT NULL,
  provider TEXT NOT NULL,
  stage    TEXT NOT NULL,
  outcome  TEXT NOT NULL,
  items    INTEGER NOT NULL,
  tokens   INTEGER NOT NULL,
  body     TEXT NOT NULL,
  at       TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS attempt_by_task ON attempt (task_id);
CREATE INDEX IF NOT EXISTS attempt_by_provider ON attempt (provider, stage, outcome, at);

CREATE TABLE IF NOT EXISTS decision (
  id      TEXT PRIMARY KEY,
  task_id TEXT NOT NULL,
  parent  TEXT NOT NULL DEFAULT '',     -- the query this stage belongs to
  inputs  TEXT NOT NULL,                -- task, offers, state and draw: enough to rank again
  route   TEXT NOT NULL,
  at      TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS decision_by_parent ON decision (parent);

CREATE TABLE IF NOT EXISTS measurement (
  id     INTEGER PRIMARY KEY,
  job_id TEXT NOT NULL DEFAULT '',
  body   TEXT NOT NULL,
  at     TEXT NOT NULL
) STRICT;
