-- Sagas: requests whose wallets live on several shards.

-- Money between shards stands on transit accounts, one for each tenant, currency and shard at the other end, the peer.
ALTER TYPE account_kind ADD VALUE 'transit';
ALTER TABLE accounts ADD COLUMN peer int CHECK (peer >= 0);
-- As text: a value that was just added to a type can't be used before the migration is committed.
ALTER TABLE accounts ADD CONSTRAINT accounts_only_transit_has_a_peer CHECK ((kind::text = 'transit') = (peer IS NOT NULL));
CREATE INDEX accounts_of_the_system ON accounts (tenant_id, currency) WHERE kind <> 'wallet';

DROP TRIGGER no_direct_update ON accounts;
CREATE TRIGGER no_direct_update
  BEFORE UPDATE OF id, tenant_id, kind, currency, peer, sequence, debits_posted, credits_posted, debits_pending,
                   credits_pending
  ON accounts FOR EACH STATEMENT EXECUTE FUNCTION refuse_direct_update();

ALTER TABLE holds DROP CONSTRAINT holds_status_check;
ALTER TABLE holds ADD CONSTRAINT holds_status_check
  CHECK (status IN ('pending', 'refused', 'held', 'capturing', 'captured', 'released', 'expired'));

-- The sagas that began here and are not over: what recovery takes up. All that is known of one stands in its request.
CREATE TABLE sagas_in_flight (id uuid PRIMARY KEY);
CREATE TRIGGER begun_or_ended BEFORE UPDATE OR TRUNCATE ON sagas_in_flight FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

DROP FUNCTION append_block;

-- Appends one block. Parallel arrays, one place a request or entry; changes that are rare come as one JSON document.
CREATE FUNCTION append_block(
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

REVOKE ALL ON FUNCTION append_block FROM PUBLIC;
GRANT SELECT ON sagas_in_flight TO zerosum_app;
GRANT EXECUTE ON FUNCTION append_block TO zerosum_app;
