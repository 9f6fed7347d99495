-- How far the readers of this shard's blocks have come: the relay to Kafka, and the consumer groups of the embedded bus. Nothing of the
-- ledger depends on it. Positions change through the functions below alone, and each reader's by one node at a time: the one that took
-- the lease last, which the epoch names. Whoever held it before, and does not know yet, is refused (ZS004).
CREATE TABLE block_readers (
  reader text PRIMARY KEY CHECK (length(reader) BETWEEN 1 AND 200),
  -- The last block that it is done with; 0 before the first.
  block int8 NOT NULL DEFAULT 0 CHECK (block >= 0),
  -- The time of that block.
  time_us int8 NOT NULL DEFAULT 0,
  epoch int8 NOT NULL DEFAULT 1,
  holder text NOT NULL,
  leased_until timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Takes a reader's lease, or keeps it; no row if somebody else has it.
CREATE FUNCTION take_lease(p_reader text, p_holder text, p_ms int) RETURNS SETOF block_readers
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  INSERT INTO block_readers AS r (reader, holder, leased_until)
  VALUES (p_reader, p_holder, clock_timestamp() + make_interval(secs => p_ms / 1000.0))
  ON CONFLICT (reader) DO UPDATE SET
    holder = EXCLUDED.holder,
    leased_until = EXCLUDED.leased_until,
    epoch = r.epoch + (r.holder <> EXCLUDED.holder)::int
  WHERE r.holder = EXCLUDED.holder OR r.leased_until < clock_timestamp()
  RETURNING *
$$;

-- Lets go of a lease, so that another node need not wait until it ends.
CREATE FUNCTION leave_lease(p_reader text, p_epoch int8) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  UPDATE block_readers SET leased_until = '-infinity' WHERE (reader, epoch) = (p_reader, p_epoch)
$$;

-- Records that a reader is done with a block and all before it. @throws ZS004 under an old epoch, for a block that is not there, backwards
CREATE FUNCTION record_position(p_reader text, p_epoch int8, p_block int8) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  UPDATE block_readers r SET block = b.number, time_us = b.time_us FROM blocks b
  WHERE b.number = p_block AND (r.reader, r.epoch) = (p_reader, p_epoch) AND r.block <= b.number;
  IF NOT FOUND THEN
    RAISE EXCEPTION '% may not record block % under epoch %', p_reader, p_block, p_epoch USING ERRCODE = 'ZS004';
  END IF;
END $$;

-- Sends a reader back to a time: it reads all blocks from then on again. Whoever is at it is fenced.
CREATE FUNCTION rewind_reader(p_reader text, p_since_us int8) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  UPDATE block_readers r SET epoch = r.epoch + 1, holder = '', leased_until = '-infinity',
    block = coalesce(b.number, 0), time_us = coalesce(b.time_us, 0)
  FROM (SELECT 1) AS one
  LEFT JOIN (SELECT number, time_us FROM blocks WHERE time_us < p_since_us ORDER BY time_us DESC LIMIT 1) AS b ON true
  WHERE r.reader = p_reader AND r.block > coalesce(b.number, 0)
$$;

-- What consumers have done for good, written in the transaction of what they do: of the events of a shard in a partition of a stream, the
-- last. What comes again and is not beyond it is skipped. It may stand in any database that consumers write to.
CREATE TABLE consumer_marks (
  consumer_group text NOT NULL CHECK (length(consumer_group) BETWEEN 1 AND 200),
  stream text NOT NULL,
  partition int NOT NULL CHECK (partition >= 0),
  shard int NOT NULL CHECK (shard >= 0),
  block int8 NOT NULL,
  index int NOT NULL CHECK (index >= 0),
  PRIMARY KEY (consumer_group, stream, partition, shard)
) WITH (fillfactor = 50);

REVOKE ALL ON FUNCTION take_lease, leave_lease, record_position, rewind_reader FROM PUBLIC;
GRANT EXECUTE ON FUNCTION take_lease, leave_lease, record_position, rewind_reader TO zerosum_app;
GRANT SELECT ON block_readers TO zerosum_app;
GRANT SELECT, INSERT, UPDATE (block, index), DELETE ON consumer_marks TO zerosum_app;
