-- Webhooks within bounds: what waits for an endpoint, what a page of its deliveries costs, and how much of a node a slow one gets.

-- How much more may wait for an endpoint. Only who makes deliveries writes here: neither who makes calls nor who changes an endpoint waits
-- for it.
CREATE TABLE webhook_backlogs (
  endpoint_id uuid PRIMARY KEY REFERENCES webhook_endpoints ON DELETE CASCADE,
  -- So many deliveries may be made before what waits is counted again. Two who count at once may both be right: below zero is no harm.
  room int NOT NULL,
  counted_us int8 NOT NULL,
  -- As much waits as may: no more deliveries are made.
  is_full boolean NOT NULL,
  -- Events that it wanted while it was full, of all time; the first and the last of the last time.
  missed int8 NOT NULL DEFAULT 0 CHECK (missed >= 0),
  missed_from_us int8,
  missed_until_us int8
) WITH (fillfactor = 50);

GRANT SELECT, INSERT, UPDATE (room, counted_us, is_full, missed, missed_from_us, missed_until_us)
  ON webhook_backlogs TO zerosum_app;

-- A page of a list is read along it, of one status or of all three.
CREATE INDEX webhook_deliveries_by_status ON webhook_deliveries (endpoint_id, status, id DESC);
DROP INDEX webhook_deliveries_by_endpoint;

-- 0: its last answer came quickly. A time to come: it was slow, and counts as that until then. Else nothing is known of it: it is new, or
-- its time as a slow one is over.
ALTER TABLE webhook_endpoints ADD COLUMN slow_until_us int8;
GRANT UPDATE (slow_until_us) ON webhook_endpoints TO zerosum_app;
