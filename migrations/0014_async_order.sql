-- Requests that wait in a table: in the order in which they were taken in, whoever took them; with the trace that they belong to; and how
-- they ended, no longer than anybody asks.

-- First, because it may take its time, and what the queue is changed by below locks it until all is done.
CREATE INDEX async_ends_time ON async_ends (time_us);
GRANT DELETE ON async_ends TO zerosum_app;

-- Puts requests at the end; one that waits there already stays where it is, one that was set aside is tried again. The places are given out
-- one call after the other, until it has committed: so what somebody was told is kept comes before what is asked after that, also on
-- another node, and whoever reads on from a place misses nothing. Places are times of the server's clock: as far as that is set back, order is lost.
CREATE FUNCTION queue_requests(ids uuid[], messages text[], traceparents text[]) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  from_us int8;
BEGIN
  PERFORM pg_advisory_xact_lock(8203725);
  from_us := extract(epoch FROM clock_timestamp()) * 1000000;
  INSERT INTO queued_requests (id, message, traceparent, due_us)
  SELECT DISTINCT ON (id) id, message, traceparent, from_us + place
  FROM unnest(ids, messages, traceparents) WITH ORDINALITY AS r (id, message, traceparent, place)
  ORDER BY id, place
  ON CONFLICT (id) DO UPDATE SET due_us = EXCLUDED.due_us, traceparent = EXCLUDED.traceparent,
    attempts = 0, first_ms = NULL, reason = NULL, dead_us = NULL
    WHERE queued_requests.dead_us IS NOT NULL;
END $$;
REVOKE ALL ON FUNCTION queue_requests FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue_requests TO zerosum_app;

-- The trace context (W3C `traceparent`) of who asked; null if it is not traced.
ALTER TABLE queued_requests ADD COLUMN traceparent text;
GRANT UPDATE (traceparent) ON queued_requests TO zerosum_app;
