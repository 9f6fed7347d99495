-- The same rules, by queries whose plans stay good when the tables grow: what entries are asked for by is found in one pass, and
-- accounts are moved in the order of their index.
CREATE OR REPLACE FUNCTION apply_entries() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  opened int8 := open_block();
  crooked record;
  added_count int;
  account_count int8;
  moved_count int8;
BEGIN
  SELECT block, item, currency, layer INTO crooked
  FROM added GROUP BY block, item, currency, layer HAVING sum(amount) <> 0 OR block IS DISTINCT FROM opened LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'entries of block % item % do not sum to zero in % on the % layer, or are outside of a block',
      crooked.block, crooked.item, crooked.currency, crooked.layer USING ERRCODE = 'ZS002';
  END IF;
  IF EXISTS (SELECT item FROM added EXCEPT SELECT item FROM requests WHERE block = opened AND refusal IS NULL) THEN
    RAISE EXCEPTION 'entries of block % that no accepted request asked for', opened USING ERRCODE = 'ZS002';
  END IF;
  SELECT count(*) INTO added_count FROM added;
  UPDATE chain_head SET entries_left = entries_left - added_count WHERE entries_left >= added_count;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'block % does not hold what its header says', opened USING ERRCODE = 'ZS002';
  END IF;

  IF EXISTS (
    SELECT FROM (
      SELECT layer, amount, posted - lag(posted) OVER w AS posted, pending_out - lag(pending_out) OVER w AS pending_out,
             pending_in - lag(pending_in) OVER w AS pending_in
      FROM added WINDOW w AS (PARTITION BY account_id ORDER BY sequence)
    ) AS step WHERE posted IS NOT NULL AND NOT is_step(layer, amount, posted, pending_out, pending_in)
  ) THEN
    RAISE EXCEPTION 'entries of block % do not follow the accounts they name', opened USING ERRCODE = 'ZS002';
  END IF;

  WITH moved AS (
    SELECT account_id, currency, count(*) AS entry_count,
           -- of arrays, the least and the greatest are those with the least and the greatest sequence
           min(ARRAY[sequence, posted, pending_out, pending_in]) AS first,
           max(ARRAY[sequence, posted, pending_out, pending_in]) AS last,
           min(ARRAY[sequence, amount, CASE layer WHEN 'posted' THEN 0 ELSE 1 END]) AS first_amount,
           coalesce(sum(-amount) FILTER (WHERE layer = 'posted' AND amount < 0), 0)::int8 AS debits,
           coalesce(sum(amount) FILTER (WHERE layer = 'posted' AND amount > 0), 0)::int8 AS credits
    FROM added GROUP BY account_id, currency ORDER BY account_id
  ), applied AS (
    UPDATE accounts a SET
      sequence = m.last[1],
      debits_posted = a.debits_posted + m.debits,
      credits_posted = a.credits_posted + m.credits,
      debits_pending = m.last[3],
      credits_pending = m.last[4]
    FROM moved m
    WHERE a.id = m.account_id AND a.currency = m.currency
      AND a.sequence = m.first[1] - 1 AND m.last[1] = m.first[1] + m.entry_count - 1
      AND is_step(CASE m.first_amount[3] WHEN 0 THEN 'posted'::layer ELSE 'pending' END, m.first_amount[2],
                  m.first[2] - (a.credits_posted - a.debits_posted), m.first[3] - a.debits_pending,
                  m.first[4] - a.credits_pending)
    RETURNING 1
  )
  SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM applied) INTO account_count, moved_count;
  IF account_count <> moved_count THEN
    RAISE EXCEPTION 'entries of block % do not follow the accounts they name', opened USING ERRCODE = 'ZS002';
  END IF;
  RETURN NULL;
END $$;
