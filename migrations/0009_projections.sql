-- What the consumer group `projections` makes of the ledger's events, for people to look at. Kept on the first shard; all of it can be
-- made again (`zerosum replay projections`), and the ledger does not depend on it.

-- Of each wallet, what a person would call a payment: a row for each movement that was completed, at each end that is a wallet.
CREATE TABLE wallet_activity (
  wallet_id uuid NOT NULL,
  -- Of the block that completed it.
  time_us int8 NOT NULL,
  transaction_id uuid NOT NULL,
  -- Which of the movements that were asked for together.
  leg int NOT NULL CHECK (leg >= 0),
  tenant_id uuid NOT NULL,
  kind text NOT NULL
    CHECK (kind IN ('transfer', 'top-up', 'withdrawal', 'reversal', 'hold', 'capture', 'release', 'expiry')),
  direction text NOT NULL CHECK (direction IN ('in', 'out')),
  -- The wallet at the other end; null is money outside the wallets.
  counterparty uuid,
  amount int8 NOT NULL CHECK (amount > 0),
  currency currency NOT NULL,
  transfer_id uuid,
  hold_id uuid,
  -- The transfer that a reversal takes back.
  reverses uuid,
  memo text,
  -- Of a top-up or withdrawal: where the money came from or went to, in the client's words.
  reference text,
  -- The feed is read along it.
  PRIMARY KEY (wallet_id, time_us, transaction_id, leg)
);

-- What was completed on a day (UTC). What moves several currencies counts once in each.
CREATE TABLE daily_totals (
  tenant_id uuid NOT NULL,
  day date NOT NULL,
  currency currency NOT NULL,
  kind text NOT NULL CHECK (kind IN ('transfer', 'top-up', 'withdrawal', 'reversal')),
  number int8 NOT NULL CHECK (number > 0),
  -- Minor units. One amount may be as large as an int8; a sum must not get stuck there.
  amount numeric NOT NULL CHECK (amount > 0),
  PRIMARY KEY (tenant_id, day, currency, kind)
) WITH (fillfactor = 50);

GRANT SELECT, INSERT, TRUNCATE ON wallet_activity TO zerosum_app;
GRANT SELECT, INSERT, UPDATE (number, amount), TRUNCATE ON daily_totals TO zerosum_app;

-- Sends a reader back to a time: it reads all blocks from then on again. Whoever is at it is fenced, also when nothing is recorded that
-- far yet: it may have done what it has not recorded.
CREATE OR REPLACE FUNCTION rewind_reader(p_reader text, p_since_us int8) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  UPDATE block_readers r SET epoch = r.epoch + 1, holder = '', leased_until = '-infinity',
    block = least(r.block, coalesce(b.number, 0)), time_us = least(r.time_us, coalesce(b.time_us, 0))
  FROM (SELECT 1) AS one
  LEFT JOIN (SELECT number, time_us FROM blocks WHERE time_us < p_since_us ORDER BY time_us DESC LIMIT 1) AS b ON true
  WHERE r.reader = p_reader
$$;
