-- Schema 2; see migrate.py. One file per realm. Amounts are integers: nano-dollars, or milliseconds of
-- free GPU quota. Instants are ISO 8601, UTC, with six decimals, so that they sort as text.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE account (
  name     TEXT PRIMARY KEY,
  unit     TEXT NOT NULL CHECK (unit IN ('nano_usd', 'gpu_ms')),
  wanted   INTEGER,                     -- the limit as it was last set or told; NULL is none
  cap      INTEGER CHECK (cap IS NULL OR cap >= 0),
  spent    INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
  held     INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
  -- what a provider charged above what was reserved: recorded, never hidden in `spent`
  over     INTEGER NOT NULL DEFAULT 0 CHECK (over >= 0),
  provider TEXT NOT NULL DEFAULT '',    -- '' is all of them together
  period   TEXT NOT NULL DEFAULT '',    -- day, week, month; credit, quota
  since    TEXT NOT NULL DEFAULT '',
  until    TEXT NOT NULL DEFAULT '',
  as_of    TEXT NOT NULL DEFAULT '',    -- of the provider's word that a quota's limit rests on
  -- the hard stop. `cap` follows `wanted`, less `over`; where more is in use already, it is what is in use
  CHECK (cap IS NULL OR spent + held <= cap),
  CHECK ((cap IS NULL) = (wanted IS NULL))
) STRICT;
CREATE INDEX account_by_end ON account (until);

-- One amount, drawn on every account of a JSON list at once.
CREATE TABLE hold (
  id       TEXT PRIMARY KEY,
  accounts TEXT NOT NULL CHECK (json_type(accounts) = 'array'),
  fund     TEXT NOT NULL CHECK (fund IN ('budget', 'credit', 'quota')),
  provider TEXT NOT NULL,
  amount   INTEGER NOT NULL CHECK (amount >= 0),
  rate     TEXT NOT NULL,               -- the Rate, frozen with its date and source
  task_id  TEXT NOT NULL,
  owner    TEXT NOT NULL,               -- the process that will settle it; see owners.py
  made_at  TEXT NOT NULL
) STRICT;

CREATE TABLE charge (
  hold_id  TEXT PRIMARY KEY,            -- a hold settles at most once
  accounts TEXT NOT NULL CHECK (json_type(accounts) = 'array'),
  fund     TEXT NOT NULL CHECK (fund IN ('budget', 'credit', 'quota')),
  provider TEXT NOT NULL,
  amount   INTEGER NOT NULL CHECK (amount >= 0),
  held     INTEGER NOT NULL CHECK (held >= 0),
  basis    TEXT NOT NULL CHECK (basis IN ('estimated', 'billed')),
  rate     TEXT NOT NULL,
  task_id  TEXT NOT NULL,
  made_at  TEXT NOT NULL,
  at       TEXT NOT NULL
) STRICT;
CREATE INDEX charge_by_provider ON charge (provider, at);
CREATE INDEX charge_by_time ON charge (made_at);

CREATE TABLE lease (
  intent_id TEXT PRIMARY KEY,
  provider  TEXT NOT NULL,
  name      TEXT NOT NULL UNIQUE,
  state     TEXT NOT NULL CHECK (state IN ('intended', 'open', 'released', 'absent', 'abandoned')),
  intent    TEXT NOT NULL,
  lease     TEXT,
  note      TEXT NOT NULL DEFAULT '',
  at        TEXT NOT NULL
) STRICT;

CREATE TABLE job (
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

CREATE TABLE attempt (
  id       TEXT PRIMARY KEY,
  task_id  TEXT NOT NULL,
  provider TEXT NOT NULL,
  stage    TEXT NOT NULL,
  outcome  TEXT NOT NULL,
  items    INTEGER NOT NULL,
  tokens   INTEGER NOT NULL,
  body     TEXT NOT NULL,
  at       TEXT NOT NULL,
  model    TEXT NOT NULL DEFAULT ''     -- of the Spec: model@revision, or ''
) STRICT;
CREATE INDEX attempt_by_task ON attempt (task_id);
CREATE INDEX attempt_by_provider ON attempt (provider, stage, outcome, at);
CREATE INDEX attempt_by_time ON attempt (at);

-- Offers as probed, but for their as_of: the same one serves many decisions.
CREATE TABLE offer (digest TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE decision (
  id      TEXT PRIMARY KEY,
  task_id TEXT NOT NULL,
  parent  TEXT NOT NULL DEFAULT '',     -- the query this stage belongs to
  offers  TEXT NOT NULL,                -- JSON: [digest, as_of] of each, in the order they were ranked from
  inputs  TEXT NOT NULL,                -- task, unfit, state and draw: with the offers, enough to rank again
  route   TEXT NOT NULL,                -- as it came out, each offer by its place in `offers`
  at      TEXT NOT NULL
) STRICT;
CREATE INDEX decision_by_parent ON decision (parent);
CREATE INDEX decision_by_task ON decision (task_id);

CREATE TABLE request (
  id         TEXT PRIMARY KEY,          -- every request ends once
  parent     TEXT NOT NULL,
  stage      TEXT NOT NULL,
  complexity TEXT NOT NULL,
  outcome    TEXT NOT NULL,
  provider   TEXT NOT NULL,
  seconds    REAL NOT NULL CHECK (seconds >= 0),
  items      INTEGER NOT NULL CHECK (items >= 0),
  hits       INTEGER NOT NULL CHECK (hits BETWEEN 0 AND items),
  attempts   INTEGER NOT NULL CHECK (attempts >= 0),
  cost       INTEGER NOT NULL CHECK (cost >= 0),
  avoided    INTEGER NOT NULL CHECK (avoided >= 0),
  at         TEXT NOT NULL
) STRICT;
CREATE INDEX request_by_time ON request (at);

CREATE TABLE alert (
  key     TEXT PRIMARY KEY,             -- once each, across processes and restarts
  body    TEXT NOT NULL CHECK (json_type(body) = 'object'),
  state   TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sending', 'done', 'failed')),
  owner   TEXT NOT NULL DEFAULT '',     -- the process that sends it
  tries   INTEGER NOT NULL DEFAULT 0,
  due     TEXT NOT NULL DEFAULT '',     -- not to be sent before
  ways    TEXT NOT NULL DEFAULT '{}' CHECK (json_type(ways) = 'object'),  -- it must not go these again
  note    TEXT NOT NULL DEFAULT '',
  made_at TEXT NOT NULL,
  at      TEXT NOT NULL
) STRICT;
CREATE INDEX alert_by_state ON alert (state, made_at);

CREATE TABLE measurement (
  id     INTEGER PRIMARY KEY,
  job_id TEXT NOT NULL DEFAULT '',
  body   TEXT NOT NULL,
  at     TEXT NOT NULL
) STRICT;
