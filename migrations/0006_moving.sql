-- Moving slots from shard to shard while transfers run: docs/ARCHITECTURE.md, "Moving slots".

-- The slot that an id carries; system accounts have none.
CREATE FUNCTION slot_of(id uuid) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE substr(id::text, 15, 1) WHEN '7' THEN ('x' || right(id::text, 3))::bit(12)::int END
$$;
CREATE INDEX wallets_by_slot ON wallets (slot_of(id));

-- Shards that are to be empty.
ALTER TABLE shard_map ADD COLUMN drained int[] NOT NULL DEFAULT '{}';

-- The change of the map that is under way here, if one is. `closed`: its slots take no requests. `departing`: they leave this shard.
CREATE TABLE map_change (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  id uuid NOT NULL,
  phase text NOT NULL CHECK (phase IN ('closed', 'departing')),
  change json NOT NULL,
  since_us int8 NOT NULL
);

-- The block that changed the map, or what is under way, last: who has read both since needs not read them again.
ALTER TABLE chain_head ADD COLUMN layout_block int8 NOT NULL DEFAULT 0;
DROP TRIGGER no_direct_update ON chain_head;
CREATE TRIGGER no_direct_update BEFORE UPDATE OF number, hash, time_us, requests_left, entries_left, layout_block
  ON chain_head FOR EACH STATEMENT EXECUTE FUNCTION refuse_direct_update();

CREATE FUNCTION layout_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  IF TG_TABLE_NAME = 'map_change' AND open_block() IS NULL THEN
    RAISE EXCEPTION 'the map changes by blocks alone: % refused', TG_OP USING ERRCODE = 'ZS003';
  END IF;
  -- The first map of a database is no change, and comes without a block.
  UPDATE chain_head SET layout_block = number WHERE TG_TABLE_NAME = 'map_change' OR (SELECT count(*) FROM shard_map) > 1;
  RETURN NULL;
END $$;
CREATE TRIGGER layout_changed AFTER INSERT OR UPDATE OR DELETE ON map_change FOR EACH STATEMENT EXECUTE FUNCTION layout_changed();
CREATE TRIGGER layout_changed AFTER INSERT ON shard_map FOR EACH STATEMENT EXECUTE FUNCTION layout_changed();

-- Does what the requests of a block say about the map.
CREATE FUNCTION apply_map_steps(p_number int8, p_time_us int8) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  step record;
  last shard_map;
BEGIN
  FOR step IN
    SELECT kind, scope AS id, payload->'change' AS change, (payload->>'isMoved')::boolean AS is_moved FROM requests
    WHERE block = p_number AND refusal IS NULL AND kind IN ('map-close', 'map-depart', 'map-open') ORDER BY item
  LOOP
    IF step.kind = 'map-close' THEN
      SELECT * INTO last FROM shard_map ORDER BY epoch DESC LIMIT 1;
      IF EXISTS (SELECT FROM json_array_elements_text(step.change->'slots') AS s (slot)
                 WHERE last.slots[s.slot::int + 1] IS DISTINCT FROM (step.change->>'from')::int2) THEN
        RAISE EXCEPTION 'block % closes slots that are not where it says', p_number USING ERRCODE = 'ZS002';
      END IF;
      INSERT INTO map_change (id, phase, change, since_us) VALUES (step.id, 'closed', step.change, p_time_us);
      CONTINUE;
    END IF;
    IF step.kind = 'map-depart' THEN
      UPDATE map_change SET phase = 'departing' WHERE id = step.id AND phase = 'closed';
    ELSE
      DELETE FROM map_change WHERE id = step.id;
    END IF;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'block % goes on with a change of the map that is not under way', p_number USING ERRCODE = 'ZS002';
    END IF;
    IF step.kind = 'map-open' AND step.is_moved THEN
      SELECT * INTO last FROM shard_map ORDER BY epoch DESC LIMIT 1;
      IF (step.change->>'epoch')::int8 IS DISTINCT FROM last.epoch + 1 THEN
        RAISE EXCEPTION 'block % changes the map to epoch %, after %', p_number, step.change->>'epoch', last.epoch
          USING ERRCODE = 'ZS002';
      END IF;
      INSERT INTO shard_map (epoch, shard_count, slots, created_us, drained)
      SELECT (step.change->>'epoch')::int8, (step.change->>'shardCount')::int,
             array_agg(CASE WHEN moved.slot IS NULL THEN s.shard ELSE (step.change->>'to')::int END ORDER BY s.place)::int2[],
             (step.change->>'createdUs')::int8,
             ARRAY(SELECT json_array_elements_text(step.change->'drained')::int)
      FROM unnest(last.slots) WITH ORDINALITY AS s (shard, place)
      LEFT JOIN (SELECT json_array_elements_text(step.change->'slots')::int AS slot) AS moved ON moved.slot = s.place - 1;
    END IF;
  END LOOP;
END $$;

-- Wallets that came from another shard: their entries go on here after that number.
CREATE TABLE arrivals (
  block int8 NOT NULL,
  item int NOT NULL,
  account_id uuid NOT NULL,
  sequence int8 NOT NULL CHECK (sequence >= 0),
  PRIMARY KEY (block, item)
);
CREATE INDEX arrivals_of_account ON arrivals (account_id, sequence);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON arrivals FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- An arrival is what an accepted request of the open block says; its account is empty, new or left here before. The balance comes
-- by entries, as always.
CREATE FUNCTION arrive() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  opened int8 := open_block();
  arrived_count int;
BEGIN
  IF EXISTS (SELECT FROM added a
             LEFT JOIN requests r ON (r.block, r.item) = (a.block, a.item) AND r.kind = 'wallet-arrive' AND r.refusal IS NULL
               AND r.scope = a.account_id AND (r.payload->'wallet'->>'sequence')::int8 = a.sequence
             WHERE a.block IS DISTINCT FROM opened OR r.id IS NULL) THEN
    RAISE EXCEPTION 'arrivals that no accepted request asked for' USING ERRCODE = 'ZS002';
  END IF;
  WITH arrived AS (
    SELECT a.account_id, a.sequence, r.tenant_id, r.payload->'wallet' AS wallet
    FROM added a JOIN requests r ON (r.block, r.item) = (a.block, a.item)
  ), opened AS (
    INSERT INTO accounts (id, tenant_id, kind, currency, overdraft_limit)
    SELECT account_id, tenant_id, 'wallet', wallet->>'currency', (wallet->>'overdraftLimit')::int8 FROM arrived
    ON CONFLICT (id) DO NOTHING
  )
  INSERT INTO wallets (id, tenant_id, holder_id, name, metadata, opened_us)
  SELECT account_id, tenant_id, wallet->>'holderId', wallet->>'name', wallet->'metadata', (wallet->>'openedUs')::int8
  FROM arrived
  ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, metadata = EXCLUDED.metadata;

  WITH arrived AS (
    SELECT a.account_id, a.sequence, r.payload->'wallet' AS wallet
    FROM added a JOIN requests r ON (r.block, r.item) = (a.block, a.item)
  )
  UPDATE accounts a SET
    sequence = v.sequence,
    status = (v.wallet->>'status')::account_status,
    transfer_max = (v.wallet->'limits'->>'transferMax')::int8,
    balance_max = (v.wallet->'limits'->>'balanceMax')::int8
  FROM arrived v
  WHERE a.id = v.account_id AND a.sequence <= v.sequence AND a.credits_posted = a.debits_posted
    AND a.debits_pending = 0 AND a.credits_pending = 0;
  GET DIAGNOSTICS arrived_count = ROW_COUNT;
  IF arrived_count <> (SELECT count(*) FROM added) THEN
    RAISE EXCEPTION 'a wallet arrives where it is already' USING ERRCODE = 'ZS002';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER arrive AFTER INSERT ON arrivals REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION arrive();

ALTER TABLE holds DROP CONSTRAINT holds_status_check;
ALTER TABLE holds ADD CONSTRAINT holds_status_check
  CHECK (status IN ('pending', 'refused', 'held', 'capturing', 'captured', 'released', 'expired', 'moved'));

-- What was recorded on other shards of the slots that came from there: copies, with their place in the chain that proves them.
CREATE TABLE moved_requests (
  shard int NOT NULL,
  block int8 NOT NULL,
  item int NOT NULL,
  time_us int8 NOT NULL,
  id uuid NOT NULL,
  tenant_id uuid NOT NULL,
  scope uuid NOT NULL,
  key text NOT NULL,
  kind text NOT NULL,
  target uuid,
  payload json NOT NULL,
  refusal text,
  result json,
  leaf bytea NOT NULL CHECK (length(leaf) = 32),
  PRIMARY KEY (shard, block, item),
  CONSTRAINT moved_requests_id UNIQUE (id)
);
CREATE INDEX moved_requests_idempotency ON moved_requests (tenant_id, scope, key);
CREATE INDEX moved_requests_target ON moved_requests (target) WHERE target IS NOT NULL;

CREATE TABLE moved_entries (
  shard int NOT NULL,
  block int8 NOT NULL,
  item int NOT NULL,
  line int NOT NULL,
  account_id uuid NOT NULL,
  -- `wallet`, or the system account's name: `cash`, `transit:1`
  account_name text NOT NULL,
  sequence int8 NOT NULL,
  currency text NOT NULL,
  layer layer NOT NULL,
  amount int8 NOT NULL,
  posted int8 NOT NULL,
  pending_out int8 NOT NULL,
  pending_in int8 NOT NULL,
  PRIMARY KEY (account_id, sequence),
  CONSTRAINT moved_entries_by_transaction UNIQUE (shard, block, item, line),
  FOREIGN KEY (shard, block, item) REFERENCES moved_requests
);

-- How far the chain of another shard was looked through for what belongs to a slot.
CREATE TABLE moved_history (shard int, slot int, block int8 NOT NULL, PRIMARY KEY (shard, slot));

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON moved_requests FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON moved_entries FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Everything that is known of the slots here, wherever it was recorded.
CREATE VIEW known_requests AS
  SELECT (SELECT coalesce(h.shard, 0) FROM chain_head h) AS shard, r.block, r.item, b.time_us, r.id, r.tenant_id, r.scope, r.key,
         r.kind, r.target, r.payload, r.refusal, r.result, r.leaf
  FROM requests r JOIN blocks b ON b.number = r.block
  UNION ALL
  SELECT shard, block, item, time_us, id, tenant_id, scope, key, kind, target, payload, refusal, result, leaf
  FROM moved_requests;

CREATE VIEW known_entries AS
  SELECT (SELECT coalesce(h.shard, 0) FROM chain_head h) AS shard, e.block, e.item, e.line, e.account_id,
         concat_ws(':', a.kind, a.peer) AS account_name, e.sequence, e.currency, e.layer, e.amount, e.posted, e.pending_out, e.pending_in
  FROM entries e JOIN accounts a ON a.id = e.account_id
  UNION ALL
  SELECT shard, block, item, line, account_id, account_name, sequence, currency, layer, amount, posted, pending_out, pending_in
  FROM moved_entries;

-- The door for copies: of slots that are not here (yet), so that nothing can be slipped in beside the chain of those that are.
CREATE FUNCTION copy_history(p_shard int, p_slots int[], p_block int8, p_requests json, p_entries json) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  IF coalesce(cardinality(p_slots), 0) = 0
     OR EXISTS (SELECT FROM (SELECT slots FROM shard_map ORDER BY epoch DESC LIMIT 1) AS m, chain_head h, unnest(p_slots) AS s (slot)
                WHERE m.slots[s.slot + 1] IS NOT DISTINCT FROM h.shard) THEN
    RAISE EXCEPTION 'history is copied to a shard before its slots come there' USING ERRCODE = 'ZS003';
  END IF;
  IF EXISTS (
    SELECT FROM json_to_recordset(p_requests) AS r (shard int, block int8, item int, id uuid, scope uuid, key text), chain_head h
    WHERE r.shard = h.shard OR NOT (
      slot_of(r.id) = ANY (p_slots)
      OR (r.key IN ('§part', '§end') AND slot_of(r.scope) = ANY (p_slots))
      OR (r.shard, r.block, r.item) IN (
        SELECT e.shard, e.block, e.item FROM json_to_recordset(p_entries) AS e (shard int, block int8, item int, account_id uuid)
        WHERE slot_of(e.account_id) = ANY (p_slots)))
  ) OR EXISTS (
    SELECT shard, block, item FROM json_to_recordset(p_entries) AS e (shard int, block int8, item int)
    EXCEPT SELECT shard, block, item FROM json_to_recordset(p_requests) AS r (shard int, block int8, item int)
  ) THEN
    RAISE EXCEPTION 'history is copied that does not belong to these slots' USING ERRCODE = 'ZS003';
  END IF;
  INSERT INTO moved_requests (shard, block, item, time_us, id, tenant_id, scope, key, kind, target, payload, refusal, result, leaf)
  SELECT shard, block, item, time_us, id, tenant_id, scope, key, kind, target, payload::json, refusal, result::json, decode(leaf, 'hex')
  FROM json_to_recordset(p_requests) AS r
    (shard int, block int8, item int, time_us int8, id uuid, tenant_id uuid, scope uuid, key text, kind text, target uuid,
     payload text, refusal text, result text, leaf text)
  ON CONFLICT (shard, block, item) DO NOTHING;
  INSERT INTO moved_entries
    (shard, block, item, line, account_id, account_name, sequence, currency, layer, amount, posted, pending_out, pending_in)
  SELECT e.* FROM json_to_recordset(p_entries) AS e
    (shard int, block int8, item int, line int, account_id uuid, account_name text, sequence int8, currency text, layer layer,
     amount int8, posted int8, pending_out int8, pending_in int8)
  ON CONFLICT (shard, block, item, line) DO NOTHING;
  -- Holds that are over say so in what was recorded when they ended; open ones come through the chain.
  INSERT INTO holds (id, tenant_id, from_account, to_account, amount, currency, expires_at_us, status, captured)
  SELECT DISTINCT ON (h.id) h.id, h."tenantId", h."from", h."to", h.amount, h.currency, h."expiresAtUs", h.status, h.captured
  FROM json_to_recordset(p_requests) AS r (time_us int8, kind text, refusal text, result text),
       json_to_record(r.result::json->'hold') AS h
         (id uuid, "tenantId" uuid, "from" uuid, "to" uuid, amount int8, currency text, "expiresAtUs" int8, status text, captured int8)
  WHERE r.refusal IS NULL AND r.kind IN ('capture', 'release', 'expiry', 'saga-finalize', 'saga-release')
    AND h.status <> 'held' AND slot_of(h.id) = ANY (p_slots)
  ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status, captured = EXCLUDED.captured WHERE holds.status = 'moved';
  INSERT INTO moved_history (shard, slot, block) SELECT p_shard, slot, p_block FROM unnest(p_slots) AS s (slot) WHERE p_block IS NOT NULL
  ON CONFLICT (shard, slot) DO UPDATE SET block = greatest(moved_history.block, EXCLUDED.block);
END $$;

-- Appends one block. Parallel arrays, one place a request or entry; changes that are rare come as one JSON document.
CREATE OR REPLACE FUNCTION append_block(
  p_number int8, p_previous_hash bytea, p_root bytea, p_hash bytea, p_time_us int8, p_writer text,
  r_id uuid[], r_tenant uuid[], r_scope uuid[], r_key text[], r_kind text[], r_target uuid[], r_payload text[],
  r_refusal text[], r_result text[], r_leaves bytea,
  e_item int[], e_line int[], e_account uuid[], e_sequence int8[], e_currency text[], e_layer layer[], e_amount int8[],
  e_posted int8[], e_pending_out int8[], e_pending_in int8[],
  s_begun uuid[], s_ended uuid[],
  p_changes json
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  ended_count int;
BEGIN
  INSERT INTO blocks (number, previous_hash, root, hash, time_us, writer, request_count, entry_count)
  VALUES (p_number, p_previous_hash, p_root, p_hash, p_time_us, p_writer, cardinality(r_id), cardinality(e_item));

  INSERT INTO requests (block, item, id, tenant_id, scope, key, kind, target, payload, refusal, result, leaf)
  SELECT p_number, r.place - 1, r.id, r.tenant, r.scope, r.key, r.kind, r.target, r.payload::json, r.refusal,
         r.result::json, substring(r_leaves FROM ((r.place - 1) * 32 + 1)::int FOR 32)
  FROM unnest(r_id, r_tenant, r_scope, r_key, r_kind, r_target, r_payload, r_refusal, r_result)
    WITH ORDINALITY AS r (id, tenant, scope, key, kind, target, payload, refusal, result, place)
  ORDER BY r.scope;

  IF p_changes IS NOT NULL THEN
    INSERT INTO accounts (id, tenant_id, kind, currency, peer, overdraft_limit, transfer_max, balance_max)
    SELECT id, tenant_id, kind, currency, peer, overdraft_limit, transfer_max, balance_max
    FROM json_to_recordset(p_changes->'accountsOpened') AS a
      (id uuid, tenant_id uuid, kind account_kind, currency text, peer int, overdraft_limit int8,
       transfer_max int8, balance_max int8);

    UPDATE accounts a SET status = c.status, transfer_max = c.transfer_max, balance_max = c.balance_max
    FROM json_to_recordset(p_changes->'accountsChanged') AS c
      (id uuid, status account_status, transfer_max int8, balance_max int8)
    WHERE a.id = c.id;

    INSERT INTO wallets (id, tenant_id, holder_id, name, metadata, opened_us)
    SELECT id, tenant_id, holder_id, name, metadata, p_time_us
    FROM json_to_recordset(p_changes->'walletsOpened') AS w
      (id uuid, tenant_id uuid, holder_id text, name text, metadata json);

    UPDATE wallets w SET name = coalesce(c.name, w.name), metadata = coalesce(c.metadata, w.metadata)
    FROM json_to_recordset(p_changes->'walletsChanged') AS c (id uuid, name text, metadata json)
    WHERE w.id = c.id;

    INSERT INTO holds (id, tenant_id, from_account, to_account, amount, currency, expires_at_us, status, captured)
    SELECT id, tenant_id, from_account, to_account, amount, currency, expires_at_us, status, captured
    FROM json_to_recordset(p_changes->'holds') AS h
      (id uuid, tenant_id uuid, from_account uuid, to_account uuid, amount int8, currency text, expires_at_us int8,
       status text, captured int8)
    ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status, captured = EXCLUDED.captured;
  END IF;

  IF r_kind && ARRAY['map-close', 'map-depart', 'map-open'] THEN
    PERFORM apply_map_steps(p_number, p_time_us);
  END IF;
  IF 'wallet-arrive' = ANY (r_kind) THEN
    INSERT INTO arrivals (block, item, account_id, sequence)
    SELECT block, item, scope, (payload->'wallet'->>'sequence')::int8 FROM requests
    WHERE block = p_number AND kind = 'wallet-arrive' AND refusal IS NULL;
  END IF;

  IF cardinality(s_begun) > 0 THEN
    INSERT INTO sagas_in_flight (id) SELECT unnest(s_begun);
  END IF;
  IF cardinality(s_ended) > 0 THEN
    DELETE FROM sagas_in_flight WHERE id = ANY (s_ended);
    GET DIAGNOSTICS ended_count = ROW_COUNT;
    IF ended_count <> cardinality(s_ended) THEN
      RAISE EXCEPTION 'block % ends sagas that are not in flight', p_number USING ERRCODE = 'ZS002';
    END IF;
  END IF;

  IF cardinality(e_item) > 0 THEN
    INSERT INTO entries
      (block, item, line, account_id, sequence, currency, layer, amount, posted, pending_out, pending_in)
    SELECT p_number, e.* FROM unnest(e_item, e_line, e_account, e_sequence, e_currency, e_layer, e_amount,
                                     e_posted, e_pending_out, e_pending_in) AS e
    ORDER BY 4, 5;
  END IF;
END $$;

REVOKE ALL ON FUNCTION layout_changed, apply_map_steps, arrive, copy_history FROM PUBLIC;
GRANT SELECT ON map_change, arrivals, moved_requests, moved_entries, moved_history, known_requests, known_entries TO zerosum_app;
GRANT EXECUTE ON FUNCTION copy_history TO zerosum_app;
