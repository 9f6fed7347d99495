-- Requests that were accepted to be posted later (`Prefer: respond-async`). Nothing of the ledger depends on these tables.

-- The queue of an installation without Kafka. A request lies in the database of the shard that its id names when it comes, and goes when it
-- is posted: then the ledger has its record.
CREATE TABLE queued_requests (
  -- Made of the request: what is asked again while it waits is one row.
  id uuid PRIMARY KEY,
  -- JSON of the request.
  message text NOT NULL,
  -- By this database's clock, microseconds since 1970: when it came, in that order, or until when it was put off.
  due_us int8 NOT NULL,
  attempts int NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  -- When it was put off first, milliseconds since 1970.
  first_ms int8,
  -- Why it was put off last, or set aside.
  reason text,
  -- Set aside then, for people to look at (`zerosum dlq`).
  dead_us int8,
  CONSTRAINT queued_requests_dead_for_a_reason CHECK (dead_us IS NULL OR reason IS NOT NULL)
);
CREATE INDEX queued_requests_due ON queued_requests (due_us) WHERE dead_us IS NULL;
CREATE INDEX queued_requests_dead ON queued_requests (dead_us) WHERE dead_us IS NOT NULL;

-- How those ended whose key had been used before: the ledger has no record under their ids. Kept on the first shard.
CREATE TABLE async_ends (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  kind text NOT NULL CHECK (kind IN ('transfer', 'top-up', 'withdrawal', 'reversal')),
  payload text NOT NULL,
  -- The same request under its own id; null is another request.
  record_id uuid,
  time_us int8 NOT NULL
);

GRANT SELECT, INSERT, DELETE, UPDATE (due_us, attempts, first_ms, reason, dead_us) ON queued_requests TO zerosum_app;
GRANT SELECT, INSERT ON async_ends TO zerosum_app;
