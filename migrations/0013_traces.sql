-- The trace contexts (W3C `traceparent`) of requests that are traced, by their places in the chain, so that whoever reads a block, on any
-- node, goes on with the trace. Written in the statement that appends the block, for sampled requests alone, and removed after some days.
-- Nothing of the ledger depends on it: it is in no hash and in no audit.
CREATE TABLE request_traces (
  block int8 NOT NULL,
  item int NOT NULL,
  traceparent text NOT NULL,
  PRIMARY KEY (block, item)
);

-- The same of an event that is delivered to webhooks; null if it is not traced.
ALTER TABLE webhook_events ADD COLUMN traceparent text;

GRANT SELECT, INSERT, DELETE ON request_traces TO zerosum_app;
