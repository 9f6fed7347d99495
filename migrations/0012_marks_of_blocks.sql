-- What was done from the blocks themselves (the embedded bus) is marked in a stream of its own, `blocks`, one mark for each group and shard;
-- what was done from Kafka, by topic and partition, with the number of partitions that the topic had, so that either can tell what was done by
-- way of the other (src/bus/marks.ts).
ALTER TABLE consumer_marks ADD COLUMN partitions int CHECK (partitions > partition);
GRANT UPDATE (partitions) ON consumer_marks TO zerosum_app;

-- Until now the embedded bus marked partition 0 of each topic, Kafka its partitions. The one that has come further is in use; if that is
-- the embedded bus, all up to its last mark is done, whatever Kafka had done before.
WITH forgotten AS (
  DELETE FROM consumer_marks m USING block_readers g
  WHERE g.reader = 'group ' || m.consumer_group
    AND NOT EXISTS (SELECT FROM block_readers r WHERE r.reader = 'relay' AND r.time_us > g.time_us)
  RETURNING m.consumer_group, m.partition, m.shard, m.block, m.index
)
INSERT INTO consumer_marks (consumer_group, stream, partition, shard, block, index)
SELECT DISTINCT ON (consumer_group, shard) consumer_group, 'blocks', 0, shard, block, index
FROM forgotten WHERE partition = 0
ORDER BY consumer_group, shard, block DESC, index DESC;
