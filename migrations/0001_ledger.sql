-- The ledger of one shard. What must never happen is refused here, whoever asks: docs/ARCHITECTURE.md, "What the database enforces".

-- Types carry what never changes in a row: a CHECK would be looked at again with every balance that moves.
CREATE TYPE layer AS ENUM ('posted', 'pending');
CREATE TYPE account_kind AS ENUM ('wallet', 'cash', 'fees', 'suspense');
CREATE TYPE account_status AS ENUM ('active', 'frozen', 'closed');
CREATE DOMAIN currency AS text CHECK (VALUE ~ '^[A-Z]{3}$');

-- Who uses this installation, and with which keys. Kept on the first shard.
CREATE TABLE tenants (
  id uuid PRIMARY KEY,
  name text NOT NULL UNIQUE CHECK (name <> ''),
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
  hash bytea PRIMARY KEY CHECK (length(hash) = 32),
  tenant_id uuid NOT NULL REFERENCES tenants,
  hint text NOT NULL,
  scopes text[] NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  revoked_at timestamptz
);

-- The end of the chain: one row, and the lock that makes the shard one sequence.
CREATE TABLE chain_head (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  shard int,
  number int8 NOT NULL,
  hash bytea NOT NULL,
  time_us int8 NOT NULL,
  -- what the head block is still to be given of what its header says
  requests_left int NOT NULL DEFAULT 0 CHECK (requests_left >= 0),
  entries_left int NOT NULL DEFAULT 0 CHECK (entries_left >= 0)
) WITH (fillfactor = 10);
INSERT INTO chain_head (number, hash, time_us) VALUES (0, decode(repeat('00', 32), 'hex'), 0);

CREATE TABLE blocks (
  number int8 PRIMARY KEY,
  previous_hash bytea NOT NULL,
  root bytea NOT NULL CHECK (length(root) = 32),
  hash bytea NOT NULL CHECK (length(hash) = 32),
  time_us int8 NOT NULL UNIQUE,
  writer text NOT NULL,
  request_count int NOT NULL CHECK (request_count > 0),
  entry_count int NOT NULL CHECK (entry_count >= 0)
);

-- What was asked and what became of it. An accepted request is also its one transaction, under the same id.
CREATE TABLE requests (
  block int8 NOT NULL,
  item int NOT NULL CHECK (item >= 0),
  id uuid NOT NULL,
  tenant_id uuid NOT NULL,
  scope uuid NOT NULL,
  key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  kind text NOT NULL,
  target uuid,
  payload json NOT NULL,
  refusal text,
  result json,
  leaf bytea NOT NULL CHECK (length(leaf) = 32),
  PRIMARY KEY (block, item),
  CONSTRAINT requests_id UNIQUE (id),
  CONSTRAINT requests_idempotency UNIQUE (tenant_id, scope, key)
);
CREATE INDEX requests_target ON requests (target) WHERE target IS NOT NULL;

-- Balances. The counters have no other writer than the trigger on entries.
CREATE TABLE accounts (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  kind account_kind NOT NULL,
  currency currency NOT NULL,
  status account_status NOT NULL DEFAULT 'active',
  overdraft_limit int8,
  transfer_max int8,
  balance_max int8,
  sequence int8 NOT NULL DEFAULT 0,
  debits_posted int8 NOT NULL DEFAULT 0,
  credits_posted int8 NOT NULL DEFAULT 0,
  debits_pending int8 NOT NULL DEFAULT 0,
  credits_pending int8 NOT NULL DEFAULT 0,
  CONSTRAINT accounts_counters
    CHECK (least(sequence, debits_posted, credits_posted, debits_pending, credits_pending) >= 0),
  CONSTRAINT accounts_limits CHECK (least(overdraft_limit, transfer_max - 1, balance_max - 1) >= 0),
  CONSTRAINT accounts_only_system_accounts_lack_a_floor CHECK ((kind = 'wallet') = (overdraft_limit IS NOT NULL)),
  -- Of a system account it is null, which a CHECK takes for true. An overflow refuses as well.
  CONSTRAINT accounts_floor CHECK (credits_posted - debits_posted - debits_pending >= -overdraft_limit)
) WITH (fillfactor = 70);

CREATE TABLE wallets (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  holder_id text NOT NULL,
  name text,
  metadata json,
  opened_us int8 NOT NULL
);
CREATE INDEX wallets_by_holder ON wallets (tenant_id, holder_id, id DESC);

CREATE TABLE entries (
  account_id uuid NOT NULL,
  sequence int8 NOT NULL,
  block int8 NOT NULL,
  item int NOT NULL,
  line int NOT NULL,
  currency text NOT NULL,
  layer layer NOT NULL,
  amount int8 NOT NULL CHECK (amount <> 0),
  posted int8 NOT NULL,
  pending_out int8 NOT NULL CHECK (pending_out >= 0),
  pending_in int8 NOT NULL CHECK (pending_in >= 0),
  PRIMARY KEY (account_id, sequence),
  CONSTRAINT entries_by_transaction UNIQUE (block, item, line)
);

CREATE TABLE holds (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  from_account uuid NOT NULL,
  to_account uuid NOT NULL,
  amount int8 NOT NULL CHECK (amount > 0),
  currency text NOT NULL,
  expires_at_us int8 NOT NULL,
  status text NOT NULL DEFAULT 'held' CHECK (status IN ('held', 'captured', 'released', 'expired')),
  captured int8 NOT NULL DEFAULT 0 CHECK (captured BETWEEN 0 AND amount)
);
CREATE INDEX holds_to_expire ON holds (expires_at_us) WHERE status = 'held';

-- Append-only: history is added to, never changed.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'ZS003';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON blocks FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON requests FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON entries FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON wallets FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON holds FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON chain_head FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A block must follow the head: the compare-and-swap that fences writers. ZS001 tells the loser to look again.
CREATE FUNCTION advance_head() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  UPDATE chain_head SET number = NEW.number, hash = NEW.hash, time_us = NEW.time_us,
    requests_left = NEW.request_count, entries_left = NEW.entry_count
  WHERE number = NEW.number - 1 AND hash = NEW.previous_hash AND time_us < NEW.time_us;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'block % does not follow the head of the chain', NEW.number USING ERRCODE = 'ZS001';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER advance_head BEFORE INSERT ON blocks FOR EACH ROW EXECUTE FUNCTION advance_head();

-- The number of the block that this transaction opened; rows can be added to no other.
CREATE FUNCTION open_block() RETURNS int8 LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
  SELECT number FROM chain_head WHERE xmin = pg_current_xact_id_if_assigned()::xid
$$;

-- At commit a block holds what its header says, neither less nor, whenever this is looked at, more.
CREATE FUNCTION check_block() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM chain_head WHERE number = NEW.number AND requests_left + entries_left > 0) THEN
    RAISE EXCEPTION 'block % does not hold what its header says', NEW.number USING ERRCODE = 'ZS002';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER check_block AFTER INSERT ON blocks DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION check_block();

-- Requests come with their block, numbered from 0 without a gap: as many as the header says, each below that number.
CREATE FUNCTION check_requests() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  opened int8 := open_block();
  added_count int;
BEGIN
  IF EXISTS (SELECT FROM added a LEFT JOIN blocks b ON b.number = opened
             WHERE a.block IS DISTINCT FROM opened OR a.item >= b.request_count) THEN
    RAISE EXCEPTION 'requests outside of a block' USING ERRCODE = 'ZS002';
  END IF;
  SELECT count(*) INTO added_count FROM added;
  UPDATE chain_head SET requests_left = requests_left - added_count WHERE requests_left >= added_count;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'block % does not hold what its header says', opened USING ERRCODE = 'ZS002';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER check_requests AFTER INSERT ON requests REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION check_requests();

-- Whether an entry is what lies between two balances: a posted one moves `posted`; a pending one moves what is pending out
-- or what is pending in, not both.
CREATE FUNCTION is_step(layer layer, amount int8, posted int8, pending_out int8, pending_in int8) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE layer
    WHEN 'posted' THEN posted = amount AND pending_out = 0 AND pending_in = 0
    ELSE posted = 0 AND ((pending_out = -amount AND pending_in = 0) OR (pending_out = 0 AND pending_in = amount))
  END
$$;

-- The golden rule, and the only writer of balances: entries sum to zero per transaction, currency and layer, belong to an
-- accepted request, continue each account's sequence without a gap, and say at every step the balances that come of it.
CREATE FUNCTION apply_entries() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
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
  IF EXISTS (SELECT FROM (SELECT DISTINCT item FROM added) AS a
             LEFT JOIN requests r ON r.block = opened AND r.item = a.item AND r.refusal IS NULL
             WHERE r.item IS NULL) THEN
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
    FROM added GROUP BY account_id, currency
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
CREATE TRIGGER apply_entries AFTER INSERT ON entries REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION apply_entries();

-- Balances and the head have no other writer: an UPDATE of them that does not come out of a trigger above is refused.
CREATE FUNCTION refuse_direct_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF pg_trigger_depth() < 2 THEN
    RAISE EXCEPTION '% change by entries and blocks alone: direct UPDATE refused', TG_TABLE_NAME USING ERRCODE = 'ZS003';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER no_direct_update
  BEFORE UPDATE OF id, tenant_id, kind, currency, sequence, debits_posted, credits_posted, debits_pending, credits_pending
  ON accounts FOR EACH STATEMENT EXECUTE FUNCTION refuse_direct_update();
CREATE TRIGGER no_direct_update BEFORE UPDATE OF number, hash, time_us, requests_left, entries_left
  ON chain_head FOR EACH STATEMENT EXECUTE FUNCTION refuse_direct_update();

CREATE FUNCTION check_opened() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM added WHERE (sequence, debits_posted, credits_posted, debits_pending, credits_pending)
                                     IS DISTINCT FROM (0::int8, 0::int8, 0::int8, 0::int8, 0::int8)) THEN
    RAISE EXCEPTION 'an account is opened empty' USING ERRCODE = 'ZS002';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER check_opened AFTER INSERT ON accounts REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION check_opened();

-- The two doors through which the application writes the ledger.

-- Waits for the chain, keeps it until the end of the transaction.
CREATE FUNCTION lock_head() RETURNS chain_head LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT * FROM chain_head FOR UPDATE
$$;

-- Appends one block. Parallel arrays, one place a request or entry; changes that are rare come as one JSON document.
CREATE FUNCTION append_block(
  p_number int8, p_previous_hash bytea, p_root bytea, p_hash bytea, p_time_us int8, p_writer text,
  r_id uuid[], r_tenant uuid[], r_scope uuid[], r_key text[], r_kind text[], r_target uuid[], r_payload text[],
  r_refusal text[], r_result text[], r_leaves bytea,
  e_item int[], e_line int[], e_account uuid[], e_sequence int8[], e_currency text[], e_layer layer[], e_amount int8[],
  e_posted int8[], e_pending_out int8[], e_pending_in int8[],
  p_changes json
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO blocks (number, previous_hash, root, hash, time_us, writer, request_count, entry_count)
  VALUES (p_number, p_previous_hash, p_root, p_hash, p_time_us, p_writer, cardinality(r_id), cardinality(e_item));

  INSERT INTO requests (block, item, id, tenant_id, scope, key, kind, target, payload, refusal, result, leaf)
  SELECT p_number, r.place - 1, r.id, r.tenant, r.scope, r.key, r.kind, r.target, r.payload::json, r.refusal,
         r.result::json, substring(r_leaves FROM ((r.place - 1) * 32 + 1)::int FOR 32)
  FROM unnest(r_id, r_tenant, r_scope, r_key, r_kind, r_target, r_payload, r_refusal, r_result)
    WITH ORDINALITY AS r (id, tenant, scope, key, kind, target, payload, refusal, result, place);

  IF p_changes IS NOT NULL THEN
    INSERT INTO accounts (id, tenant_id, kind, currency, overdraft_limit, transfer_max, balance_max)
    SELECT id, tenant_id, kind, currency, overdraft_limit, transfer_max, balance_max
    FROM json_to_recordset(p_changes->'accountsOpened') AS a
      (id uuid, tenant_id uuid, kind account_kind, currency text, overdraft_limit int8, transfer_max int8,
       balance_max int8);

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

  IF cardinality(e_item) > 0 THEN
    INSERT INTO entries
      (block, item, line, account_id, sequence, currency, layer, amount, posted, pending_out, pending_in)
    SELECT p_number, e.* FROM unnest(e_item, e_line, e_account, e_sequence, e_currency, e_layer, e_amount,
                                     e_posted, e_pending_out, e_pending_in) AS e;
  END IF;
END $$;

-- The application reads everything, manages tenants and keys, and writes the ledger through those doors alone.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'zerosum_app') THEN
    CREATE ROLE zerosum_app NOLOGIN;
  END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- another shard of this server made it
END $$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO zerosum_app;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO zerosum_app;
GRANT INSERT ON tenants, api_keys TO zerosum_app;
GRANT UPDATE (revoked_at) ON api_keys TO zerosum_app;
GRANT EXECUTE ON FUNCTION lock_head, append_block TO zerosum_app;
DO $$
BEGIN
  IF NOT pg_has_role(current_user, 'zerosum_app', 'MEMBER') THEN
    GRANT zerosum_app TO CURRENT_USER;
  END IF;
END $$;
