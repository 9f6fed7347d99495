-- Which shard every slot is on. All shards hold the same rows; the one with the highest epoch counts.
CREATE TABLE shard_map (
  epoch int8 PRIMARY KEY CHECK (epoch > 0),
  shard_count int NOT NULL CHECK (shard_count BETWEEN 1 AND 4096),
  slots int2[] NOT NULL CHECK (
    array_ndims(slots) = 1 AND array_lower(slots, 1) = 1 AND cardinality(slots) = 4096
    AND array_position(slots, NULL) IS NULL AND 0 <= ALL (slots) AND shard_count > ALL (slots)
  ),
  -- One time for all shards, given by the node that made the map: it also tells the maps of two installations apart.
  created_us int8 NOT NULL
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON shard_map FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

GRANT SELECT ON shard_map TO zerosum_app;
