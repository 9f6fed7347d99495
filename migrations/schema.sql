-- What the migrations come to, read back from PostgreSQL's catalogs. Written by `npm run schema:dump`; to be read, not run.

CREATE ROLE zerosum_app NOLOGIN;

CREATE TYPE account_kind AS ENUM ('wallet', 'cash', 'fees', 'suspense', 'transit');
CREATE TYPE account_status AS ENUM ('active', 'frozen', 'closed');
CREATE TYPE layer AS ENUM ('posted', 'pending');

CREATE DOMAIN currency AS text CONSTRAINT currency_check CHECK ((VALUE ~ '^[A-Z]{3}$'::text));

CREATE TABLE accounts (
  id uuid NOT NULL,
  tenant_id uuid NOT NULL,
  kind account_kind NOT NULL,
  currency currency NOT NULL,
  status account_status NOT NULL DEFAULT 'active'::account_status,
  overdraft_limit bigint,
  transfer_max bigint,
  balance_max bigint,
  sequence bigint NOT NULL DEFAULT 0,
  debits_posted bigint NOT NULL DEFAULT 0,
  credits_posted bigint NOT NULL DEFAULT 0,
  debits_pending bigint NOT NULL DEFAULT 0,
  credits_pending bigint NOT NULL DEFAULT 0,
  peer integer,
  CONSTRAINT accounts_counters CHECK ((LEAST(sequence, debits_posted, credits_posted, debits_pending, credits_pending) >= 0)),
  CONSTRAINT accounts_floor CHECK ((((credits_posted - debits_posted) - debits_pending) >= (- overdraft_limit))),
  CONSTRAINT accounts_limits CHECK ((LEAST(overdraft_limit, (transfer_max - 1), (balance_max - 1)) >= 0)),
  CONSTRAINT accounts_only_system_accounts_lack_a_floor CHECK (((kind = 'wallet'::account_kind) = (overdraft_limit IS NOT NULL))),
  CONSTRAINT accounts_only_transit_has_a_peer CHECK ((((kind)::text = 'transit'::text) = (peer IS NOT NULL))),
  CONSTRAINT accounts_peer_check CHECK ((peer >= 0)),
  CONSTRAINT accounts_pkey PRIMARY KEY (id)
) WITH (fillfactor=70);
CREATE INDEX accounts_of_the_system ON public.accounts USING btree (tenant_id, currency) WHERE (kind <> 'wallet'::account_kind);
CREATE TRIGGER check_opened AFTER INSERT ON public.accounts REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION check_opened();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON public.accounts FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_direct_update BEFORE UPDATE OF id, tenant_id, kind, currency, peer, sequence, debits_posted, credits_posted, debits_pending, credits_pending ON public.accounts FOR EACH STATEMENT EXECUTE FUNCTION refuse_direct_update();

CREATE TABLE api_keys (
  hash bytea NOT NULL,
  tenant_id uuid NOT NULL,
  hint text NOT NULL,
  scopes text[] NOT NULL,
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  revoked_at timestamp with time zone,
  CONSTRAINT api_keys_hash_check CHECK ((length(hash) = 32)),
  CONSTRAINT api_keys_pkey PRIMARY KEY (hash),
  CONSTRAINT api_keys_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(id)
);

CREATE TABLE arrivals (
  block bigint NOT NULL,
  item integer NOT NULL,
  account_id uuid NOT NULL,
  sequence bigint NOT NULL,
  CONSTRAINT arrivals_pkey PRIMARY KEY (block, item),
  CONSTRAINT arrivals_sequence_check CHECK ((sequence >= 0))
);
CREATE INDEX arrivals_of_account ON public.arrivals USING btree (account_id, sequence);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.arrivals FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER arrive AFTER INSERT ON public.arrivals REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION arrive();

CREATE TABLE async_ends (
  id uuid NOT NULL,
  tenant_id uuid NOT NULL,
  kind text NOT NULL,
  payload text NOT NULL,
  record_id uuid,
  time_us bigint NOT NULL,
  CONSTRAINT async_ends_kind_check CHECK ((kind = ANY (ARRAY['transfer'::text, 'top-up'::text, 'withdrawal'::text, 'reversal'::text]))),
  CONSTRAINT async_ends_pkey PRIMARY KEY (id)
);
CREATE INDEX async_ends_time ON public.async_ends USING btree (time_us);

CREATE TABLE block_readers (
  reader text NOT NULL,
  block bigint NOT NULL DEFAULT 0,
  time_us bigint NOT NULL DEFAULT 0,
  epoch bigint NOT NULL DEFAULT 1,
  holder text NOT NULL,
  leased_until timestamp with time zone NOT NULL,
  CONSTRAINT block_readers_block_check CHECK ((block >= 0)),
  CONSTRAINT block_readers_pkey PRIMARY KEY (reader),
  CONSTRAINT block_readers_reader_check CHECK (((length(reader) >= 1) AND (length(reader) <= 200)))
) WITH (fillfactor=50);

CREATE TABLE blocks (
  number bigint NOT NULL,
  previous_hash bytea NOT NULL,
  root bytea NOT NULL,
  hash bytea NOT NULL,
  time_us bigint NOT NULL,
  writer text NOT NULL,
  request_count integer NOT NULL,
  entry_count integer NOT NULL,
  CONSTRAINT blocks_entry_count_check CHECK ((entry_count >= 0)),
  CONSTRAINT blocks_hash_check CHECK ((length(hash) = 32)),
  CONSTRAINT blocks_pkey PRIMARY KEY (number),
  CONSTRAINT blocks_request_count_check CHECK ((request_count > 0)),
  CONSTRAINT blocks_root_check CHECK ((length(root) = 32)),
  CONSTRAINT blocks_time_us_key UNIQUE (time_us)
);
CREATE TRIGGER advance_head BEFORE INSERT ON public.blocks FOR EACH ROW EXECUTE FUNCTION advance_head();
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.blocks FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE CONSTRAINT TRIGGER check_block AFTER INSERT ON public.blocks DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_block();

CREATE TABLE chain_head (
  only_row boolean NOT NULL DEFAULT true,
  shard integer,
  number bigint NOT NULL,
  hash bytea NOT NULL,
  time_us bigint NOT NULL,
  requests_left integer NOT NULL DEFAULT 0,
  entries_left integer NOT NULL DEFAULT 0,
  layout_block bigint NOT NULL DEFAULT 0,
  CONSTRAINT chain_head_entries_left_check CHECK ((entries_left >= 0)),
  CONSTRAINT chain_head_only_row_check CHECK (only_row),
  CONSTRAINT chain_head_pkey PRIMARY KEY (only_row),
  CONSTRAINT chain_head_requests_left_check CHECK ((requests_left >= 0))
) WITH (fillfactor=10);
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON public.chain_head FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_direct_update BEFORE UPDATE OF number, hash, time_us, requests_left, entries_left, layout_block ON public.chain_head FOR EACH STATEMENT EXECUTE FUNCTION refuse_direct_update();

CREATE TABLE consumer_marks (
  consumer_group text NOT NULL,
  stream text NOT NULL,
  partition integer NOT NULL,
  shard integer NOT NULL,
  block bigint NOT NULL,
  index integer NOT NULL,
  partitions integer,
  CONSTRAINT consumer_marks_check CHECK ((partitions > partition)),
  CONSTRAINT consumer_marks_consumer_group_check CHECK (((length(consumer_group) >= 1) AND (length(consumer_group) <= 200))),
  CONSTRAINT consumer_marks_index_check CHECK ((index >= 0)),
  CONSTRAINT consumer_marks_partition_check CHECK ((partition >= 0)),
  CONSTRAINT consumer_marks_pkey PRIMARY KEY (consumer_group, stream, partition, shard),
  CONSTRAINT consumer_marks_shard_check CHECK ((shard >= 0))
) WITH (fillfactor=50);

CREATE TABLE daily_totals (
  tenant_id uuid NOT NULL,
  day date NOT NULL,
  currency currency NOT NULL,
  kind text NOT NULL,
  number bigint NOT NULL,
  amount numeric NOT NULL,
  CONSTRAINT daily_totals_amount_check CHECK ((amount > (0)::numeric)),
  CONSTRAINT daily_totals_kind_check CHECK ((kind = ANY (ARRAY['transfer'::text, 'top-up'::text, 'withdrawal'::text, 'reversal'::text]))),
  CONSTRAINT daily_totals_number_check CHECK ((number > 0)),
  CONSTRAINT daily_totals_pkey PRIMARY KEY (tenant_id, day, currency, kind)
) WITH (fillfactor=50);

CREATE TABLE entries (
  account_id uuid NOT NULL,
  sequence bigint NOT NULL,
  block bigint NOT NULL,
  item integer NOT NULL,
  line integer NOT NULL,
  currency text NOT NULL,
  layer layer NOT NULL,
  amount bigint NOT NULL,
  posted bigint NOT NULL,
  pending_out bigint NOT NULL,
  pending_in bigint NOT NULL,
  CONSTRAINT entries_amount_check CHECK ((amount <> 0)),
  CONSTRAINT entries_by_transaction UNIQUE (block, item, line),
  CONSTRAINT entries_pending_in_check CHECK ((pending_in >= 0)),
  CONSTRAINT entries_pending_out_check CHECK ((pending_out >= 0)),
  CONSTRAINT entries_pkey PRIMARY KEY (account_id, sequence)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.entries FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER apply_entries AFTER INSERT ON public.entries REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION apply_entries();

CREATE TABLE holds (
  id uuid NOT NULL,
  tenant_id uuid NOT NULL,
  from_account uuid NOT NULL,
  to_account uuid NOT NULL,
  amount bigint NOT NULL,
  currency text NOT NULL,
  expires_at_us bigint NOT NULL,
  status text NOT NULL DEFAULT 'held'::text,
  captured bigint NOT NULL DEFAULT 0,
  CONSTRAINT holds_amount_check CHECK ((amount > 0)),
  CONSTRAINT holds_check CHECK (((captured >= 0) AND (captured <= amount))),
  CONSTRAINT holds_pkey PRIMARY KEY (id),
  CONSTRAINT holds_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'refused'::text, 'held'::text, 'capturing'::text, 'captured'::text, 'released'::text, 'expired'::text, 'moved'::text])))
);
CREATE INDEX holds_to_expire ON public.holds USING btree (expires_at_us) WHERE (status = 'held'::text);
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON public.holds FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE map_change (
  only_row boolean NOT NULL DEFAULT true,
  id uuid NOT NULL,
  phase text NOT NULL,
  change json NOT NULL,
  since_us bigint NOT NULL,
  CONSTRAINT map_change_only_row_check CHECK (only_row),
  CONSTRAINT map_change_phase_check CHECK ((phase = ANY (ARRAY['closed'::text, 'departing'::text]))),
  CONSTRAINT map_change_pkey PRIMARY KEY (only_row)
);
CREATE TRIGGER layout_changed AFTER INSERT OR DELETE OR UPDATE ON public.map_change FOR EACH STATEMENT EXECUTE FUNCTION layout_changed();

CREATE TABLE moved_entries (
  shard integer NOT NULL,
  block bigint NOT NULL,
  item integer NOT NULL,
  line integer NOT NULL,
  account_id uuid NOT NULL,
  account_name text NOT NULL,
  sequence bigint NOT NULL,
  currency text NOT NULL,
  layer layer NOT NULL,
  amount bigint NOT NULL,
  posted bigint NOT NULL,
  pending_out bigint NOT NULL,
  pending_in bigint NOT NULL,
  CONSTRAINT moved_entries_by_transaction UNIQUE (shard, block, item, line),
  CONSTRAINT moved_entries_pkey PRIMARY KEY (account_id, sequence),
  CONSTRAINT moved_entries_shard_block_item_fkey FOREIGN KEY (shard, block, item) REFERENCES moved_requests(shard, block, item)
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.moved_entries FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE moved_history (
  shard integer NOT NULL,
  slot integer NOT NULL,
  block bigint NOT NULL,
  CONSTRAINT moved_history_pkey PRIMARY KEY (shard, slot)
);

CREATE TABLE moved_requests (
  shard integer NOT NULL,
  block bigint NOT NULL,
  item integer NOT NULL,
  time_us bigint NOT NULL,
  id uuid NOT NULL,
  tenant_id uuid NOT NULL,
  scope uuid NOT NULL,
  key text NOT NULL,
  kind text NOT NULL,
  target uuid,
  payload json NOT NULL,
  refusal text,
  result json,
  leaf bytea NOT NULL,
  CONSTRAINT moved_requests_id UNIQUE (id),
  CONSTRAINT moved_requests_leaf_check CHECK ((length(leaf) = 32)),
  CONSTRAINT moved_requests_pkey PRIMARY KEY (shard, block, item)
);
CREATE INDEX moved_requests_idempotency ON public.moved_requests USING btree (tenant_id, scope, key);
CREATE INDEX moved_requests_target ON public.moved_requests USING btree (target) WHERE (target IS NOT NULL);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.moved_requests FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE queued_requests (
  id uuid NOT NULL,
  message text NOT NULL,
  due_us bigint NOT NULL,
  attempts integer NOT NULL DEFAULT 0,
  first_ms bigint,
  reason text,
  dead_us bigint,
  traceparent text,
  CONSTRAINT queued_requests_attempts_check CHECK ((attempts >= 0)),
  CONSTRAINT queued_requests_dead_for_a_reason CHECK (((dead_us IS NULL) OR (reason IS NOT NULL))),
  CONSTRAINT queued_requests_pkey PRIMARY KEY (id)
);
CREATE INDEX queued_requests_dead ON public.queued_requests USING btree (dead_us) WHERE (dead_us IS NOT NULL);
CREATE INDEX queued_requests_due ON public.queued_requests USING btree (due_us) WHERE (dead_us IS NULL);

CREATE TABLE request_traces (
  block bigint NOT NULL,
  item integer NOT NULL,
  traceparent text NOT NULL,
  CONSTRAINT request_traces_pkey PRIMARY KEY (block, item)
);

CREATE TABLE requests (
  block bigint NOT NULL,
  item integer NOT NULL,
  id uuid NOT NULL,
  tenant_id uuid NOT NULL,
  scope uuid NOT NULL,
  key text NOT NULL,
  kind text NOT NULL,
  target uuid,
  payload json NOT NULL,
  refusal text,
  result json,
  leaf bytea NOT NULL,
  CONSTRAINT requests_id UNIQUE (id),
  CONSTRAINT requests_idempotency UNIQUE (tenant_id, scope, key),
  CONSTRAINT requests_item_check CHECK ((item >= 0)),
  CONSTRAINT requests_key_check CHECK (((length(key) >= 1) AND (length(key) <= 255))),
  CONSTRAINT requests_leaf_check CHECK ((length(leaf) = 32)),
  CONSTRAINT requests_pkey PRIMARY KEY (block, item)
);
CREATE INDEX requests_target ON public.requests USING btree (target) WHERE (target IS NOT NULL);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.requests FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER check_requests AFTER INSERT ON public.requests REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION check_requests();

CREATE TABLE sagas_in_flight (
  id uuid NOT NULL,
  CONSTRAINT sagas_in_flight_pkey PRIMARY KEY (id)
);
CREATE TRIGGER begun_or_ended BEFORE UPDATE OR TRUNCATE ON public.sagas_in_flight FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE schema_migrations (
  name text NOT NULL,
  applied_at timestamp with time zone NOT NULL DEFAULT now(),
  CONSTRAINT schema_migrations_pkey PRIMARY KEY (name)
);

CREATE TABLE shard_map (
  epoch bigint NOT NULL,
  shard_count integer NOT NULL,
  slots smallint[] NOT NULL,
  created_us bigint NOT NULL,
  drained integer[] NOT NULL DEFAULT '{}'::integer[],
  CONSTRAINT shard_map_check CHECK (((array_ndims(slots) = 1) AND (array_lower(slots, 1) = 1) AND (cardinality(slots) = 4096) AND (array_position(slots, NULL::smallint) IS NULL) AND (0 <= ALL (slots)) AND (shard_count > ALL (slots)))),
  CONSTRAINT shard_map_epoch_check CHECK ((epoch > 0)),
  CONSTRAINT shard_map_pkey PRIMARY KEY (epoch),
  CONSTRAINT shard_map_shard_count_check CHECK (((shard_count >= 1) AND (shard_count <= 4096)))
);
CREATE TRIGGER append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.shard_map FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER layout_changed AFTER INSERT ON public.shard_map FOR EACH STATEMENT EXECUTE FUNCTION layout_changed();

CREATE TABLE tenants (
  id uuid NOT NULL,
  name text NOT NULL,
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  CONSTRAINT tenants_name_check CHECK ((name <> ''::text)),
  CONSTRAINT tenants_name_key UNIQUE (name),
  CONSTRAINT tenants_pkey PRIMARY KEY (id)
);

CREATE TABLE verifications (
  finished_us bigint NOT NULL,
  took_ms integer NOT NULL,
  report json NOT NULL,
  CONSTRAINT verifications_pkey PRIMARY KEY (finished_us),
  CONSTRAINT verifications_took_ms_check CHECK ((took_ms >= 0))
);

CREATE TABLE wallet_activity (
  wallet_id uuid NOT NULL,
  time_us bigint NOT NULL,
  transaction_id uuid NOT NULL,
  leg integer NOT NULL,
  tenant_id uuid NOT NULL,
  kind text NOT NULL,
  direction text NOT NULL,
  counterparty uuid,
  amount bigint NOT NULL,
  currency currency NOT NULL,
  transfer_id uuid,
  hold_id uuid,
  reverses uuid,
  memo text,
  reference text,
  CONSTRAINT wallet_activity_amount_check CHECK ((amount > 0)),
  CONSTRAINT wallet_activity_direction_check CHECK ((direction = ANY (ARRAY['in'::text, 'out'::text]))),
  CONSTRAINT wallet_activity_kind_check CHECK ((kind = ANY (ARRAY['transfer'::text, 'top-up'::text, 'withdrawal'::text, 'reversal'::text, 'hold'::text, 'capture'::text, 'release'::text, 'expiry'::text]))),
  CONSTRAINT wallet_activity_leg_check CHECK ((leg >= 0)),
  CONSTRAINT wallet_activity_pkey PRIMARY KEY (wallet_id, time_us, transaction_id, leg)
);

CREATE TABLE wallets (
  id uuid NOT NULL,
  tenant_id uuid NOT NULL,
  holder_id text NOT NULL,
  name text,
  metadata json,
  opened_us bigint NOT NULL,
  CONSTRAINT wallets_pkey PRIMARY KEY (id)
);
CREATE INDEX wallets_by_holder ON public.wallets USING btree (tenant_id, holder_id, id DESC);
CREATE INDEX wallets_by_slot ON public.wallets USING btree (slot_of(id));
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON public.wallets FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE webhook_attempts (
  delivery_id uuid NOT NULL,
  number integer NOT NULL,
  began_us bigint NOT NULL,
  took_ms integer NOT NULL,
  status_code integer,
  error text,
  response text,
  CONSTRAINT webhook_attempts_delivery_id_fkey FOREIGN KEY (delivery_id) REFERENCES webhook_deliveries(id) ON DELETE CASCADE,
  CONSTRAINT webhook_attempts_pkey PRIMARY KEY (delivery_id, number)
);

CREATE TABLE webhook_backlogs (
  endpoint_id uuid NOT NULL,
  room integer NOT NULL,
  counted_us bigint NOT NULL,
  is_full boolean NOT NULL,
  missed bigint NOT NULL DEFAULT 0,
  missed_from_us bigint,
  missed_until_us bigint,
  CONSTRAINT webhook_backlogs_endpoint_id_fkey FOREIGN KEY (endpoint_id) REFERENCES webhook_endpoints(id) ON DELETE CASCADE,
  CONSTRAINT webhook_backlogs_missed_check CHECK ((missed >= 0)),
  CONSTRAINT webhook_backlogs_pkey PRIMARY KEY (endpoint_id)
) WITH (fillfactor=50);

CREATE TABLE webhook_deliveries (
  id uuid NOT NULL,
  endpoint_id uuid NOT NULL,
  event_id uuid NOT NULL,
  status text NOT NULL DEFAULT 'pending'::text,
  attempts integer NOT NULL DEFAULT 0,
  tries integer NOT NULL DEFAULT 0,
  due_us bigint NOT NULL,
  is_taken boolean NOT NULL DEFAULT false,
  created_us bigint NOT NULL,
  touched_us bigint NOT NULL,
  delivered_us bigint,
  CONSTRAINT webhook_deliveries_attempts_check CHECK ((attempts >= 0)),
  CONSTRAINT webhook_deliveries_endpoint_id_fkey FOREIGN KEY (endpoint_id) REFERENCES webhook_endpoints(id),
  CONSTRAINT webhook_deliveries_event_id_fkey FOREIGN KEY (event_id) REFERENCES webhook_events(id),
  CONSTRAINT webhook_deliveries_once UNIQUE (event_id, endpoint_id),
  CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (id),
  CONSTRAINT webhook_deliveries_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'delivered'::text, 'dead'::text]))),
  CONSTRAINT webhook_deliveries_tries_check CHECK ((tries >= 0))
);
CREATE INDEX webhook_deliveries_by_age ON public.webhook_deliveries USING btree (touched_us);
CREATE INDEX webhook_deliveries_by_status ON public.webhook_deliveries USING btree (endpoint_id, status, id DESC);
CREATE INDEX webhook_deliveries_due ON public.webhook_deliveries USING btree (endpoint_id, due_us) WHERE (status = 'pending'::text);

CREATE TABLE webhook_endpoints (
  id uuid NOT NULL,
  tenant_id uuid NOT NULL,
  url text NOT NULL,
  description text,
  event_types text[] NOT NULL,
  secret text,
  secret_since_us bigint NOT NULL,
  previous_secrets json NOT NULL DEFAULT '[]'::json,
  disabled_us bigint,
  disabled_reason text,
  failing_since_us bigint,
  resting_until_us bigint NOT NULL DEFAULT 0,
  created_us bigint NOT NULL,
  deleted_us bigint,
  slow_until_us bigint,
  CONSTRAINT webhook_endpoints_disabled_for_a_reason CHECK (((disabled_us IS NULL) = (disabled_reason IS NULL))),
  CONSTRAINT webhook_endpoints_disabled_reason_check CHECK ((disabled_reason = ANY (ARRAY['manual'::text, 'gone'::text, 'failing'::text]))),
  CONSTRAINT webhook_endpoints_event_types_check CHECK (((cardinality(event_types) >= 1) AND (cardinality(event_types) <= 50))),
  CONSTRAINT webhook_endpoints_pkey PRIMARY KEY (id),
  CONSTRAINT webhook_endpoints_secret_until_deleted CHECK (((secret IS NULL) = (deleted_us IS NOT NULL))),
  CONSTRAINT webhook_endpoints_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(id),
  CONSTRAINT webhook_endpoints_url_check CHECK (((length(url) >= 1) AND (length(url) <= 2048)))
);
CREATE INDEX webhook_endpoints_by_tenant ON public.webhook_endpoints USING btree (tenant_id, id DESC) WHERE (deleted_us IS NULL);
CREATE INDEX webhook_endpoints_deleted ON public.webhook_endpoints USING btree (deleted_us) WHERE (deleted_us IS NOT NULL);

CREATE TABLE webhook_events (
  id uuid NOT NULL,
  tenant_id uuid NOT NULL,
  type text NOT NULL,
  body text NOT NULL,
  created_us bigint NOT NULL,
  traceparent text,
  CONSTRAINT webhook_events_body_check CHECK ((octet_length(body) <= 262144)),
  CONSTRAINT webhook_events_pkey PRIMARY KEY (id)
);
CREATE INDEX webhook_events_by_age ON public.webhook_events USING btree (created_us);

CREATE TABLE webhook_requests (
  tenant_id uuid NOT NULL,
  key text NOT NULL,
  payload json NOT NULL,
  subject uuid NOT NULL,
  created_us bigint NOT NULL,
  CONSTRAINT webhook_requests_key_check CHECK (((length(key) >= 1) AND (length(key) <= 255))),
  CONSTRAINT webhook_requests_pkey PRIMARY KEY (tenant_id, key)
);
CREATE INDEX webhook_requests_by_age ON public.webhook_requests USING btree (created_us);

CREATE VIEW known_entries AS
 SELECT ( SELECT COALESCE(h.shard, 0) AS "coalesce"
           FROM chain_head h) AS shard,
    e.block,
    e.item,
    e.line,
    e.account_id,
    concat_ws(':'::text, a.kind, a.peer) AS account_name,
    e.sequence,
    e.currency,
    e.layer,
    e.amount,
    e.posted,
    e.pending_out,
    e.pending_in
   FROM (entries e
     JOIN accounts a ON ((a.id = e.account_id)))
UNION ALL
 SELECT moved_entries.shard,
    moved_entries.block,
    moved_entries.item,
    moved_entries.line,
    moved_entries.account_id,
    moved_entries.account_name,
    moved_entries.sequence,
    moved_entries.currency,
    moved_entries.layer,
    moved_entries.amount,
    moved_entries.posted,
    moved_entries.pending_out,
    moved_entries.pending_in
   FROM moved_entries;

CREATE VIEW known_requests AS
 SELECT ( SELECT COALESCE(h.shard, 0) AS "coalesce"
           FROM chain_head h) AS shard,
    r.block,
    r.item,
    b.time_us,
    r.id,
    r.tenant_id,
    r.scope,
    r.key,
    r.kind,
    r.target,
    r.payload,
    r.refusal,
    r.result,
    r.leaf
   FROM (requests r
     JOIN blocks b ON ((b.number = r.block)))
UNION ALL
 SELECT moved_requests.shard,
    moved_requests.block,
    moved_requests.item,
    moved_requests.time_us,
    moved_requests.id,
    moved_requests.tenant_id,
    moved_requests.scope,
    moved_requests.key,
    moved_requests.kind,
    moved_requests.target,
    moved_requests.payload,
    moved_requests.refusal,
    moved_requests.result,
    moved_requests.leaf
   FROM moved_requests;

CREATE OR REPLACE FUNCTION public.advance_head()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
BEGIN
  UPDATE chain_head SET number = NEW.number, hash = NEW.hash, time_us = NEW.time_us,
    requests_left = NEW.request_count, entries_left = NEW.entry_count
  WHERE number = NEW.number - 1 AND hash = NEW.previous_hash AND time_us < NEW.time_us;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'block % does not follow the head of the chain', NEW.number USING ERRCODE = 'ZS001';
  END IF;
  RETURN NEW;
END $function$;

CREATE OR REPLACE FUNCTION public.append_block(p_number bigint, p_previous_hash bytea, p_root bytea, p_hash bytea, p_time_us bigint, p_writer text, r_id uuid[], r_tenant uuid[], r_scope uuid[], r_key text[], r_kind text[], r_target uuid[], r_payload text[], r_refusal text[], r_result text[], r_leaves bytea, e_item integer[], e_line integer[], e_account uuid[], e_sequence bigint[], e_currency text[], e_layer layer[], e_amount bigint[], e_posted bigint[], e_pending_out bigint[], e_pending_in bigint[], s_begun uuid[], s_ended uuid[], p_changes json)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.apply_entries()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.apply_map_steps(p_number bigint, p_time_us bigint)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.arrive()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.check_block()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
BEGIN
  IF EXISTS (SELECT FROM chain_head WHERE number = NEW.number AND requests_left + entries_left > 0) THEN
    RAISE EXCEPTION 'block % does not hold what its header says', NEW.number USING ERRCODE = 'ZS002';
  END IF;
  RETURN NULL;
END $function$;

CREATE OR REPLACE FUNCTION public.check_opened()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
BEGIN
  IF EXISTS (SELECT FROM added WHERE (sequence, debits_posted, credits_posted, debits_pending, credits_pending)
                                     IS DISTINCT FROM (0::int8, 0::int8, 0::int8, 0::int8, 0::int8)) THEN
    RAISE EXCEPTION 'an account is opened empty' USING ERRCODE = 'ZS002';
  END IF;
  RETURN NULL;
END $function$;

CREATE OR REPLACE FUNCTION public.check_requests()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.copy_history(p_shard integer, p_slots integer[], p_block bigint, p_requests json, p_entries json)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.is_step(layer layer, amount bigint, posted bigint, pending_out bigint, pending_in bigint)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
AS $function$
  SELECT CASE layer
    WHEN 'posted' THEN posted = amount AND pending_out = 0 AND pending_in = 0
    ELSE posted = 0 AND ((pending_out = -amount AND pending_in = 0) OR (pending_out = 0 AND pending_in = amount))
  END
$function$;

CREATE OR REPLACE FUNCTION public.layout_changed()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
BEGIN
  IF TG_TABLE_NAME = 'map_change' AND open_block() IS NULL THEN
    RAISE EXCEPTION 'the map changes by blocks alone: % refused', TG_OP USING ERRCODE = 'ZS003';
  END IF;
  -- The first map of a database is no change, and comes without a block.
  UPDATE chain_head SET layout_block = number WHERE TG_TABLE_NAME = 'map_change' OR (SELECT count(*) FROM shard_map) > 1;
  RETURN NULL;
END $function$;

CREATE OR REPLACE FUNCTION public.leave_lease(p_reader text, p_epoch bigint)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
  UPDATE block_readers SET leased_until = '-infinity' WHERE (reader, epoch) = (p_reader, p_epoch)
$function$;

CREATE OR REPLACE FUNCTION public.lock_head()
 RETURNS chain_head
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
  SELECT * FROM chain_head FOR UPDATE
$function$;

CREATE OR REPLACE FUNCTION public.open_block()
 RETURNS bigint
 LANGUAGE sql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
  SELECT number FROM chain_head WHERE xmin = pg_current_xact_id_if_assigned()::xid
$function$;

CREATE OR REPLACE FUNCTION public.queue_requests(ids uuid[], messages text[], traceparents text[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
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
END $function$;

CREATE OR REPLACE FUNCTION public.record_position(p_reader text, p_epoch bigint, p_block bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
BEGIN
  UPDATE block_readers r SET block = b.number, time_us = b.time_us FROM blocks b
  WHERE b.number = p_block AND (r.reader, r.epoch) = (p_reader, p_epoch) AND r.block <= b.number;
  IF NOT FOUND THEN
    RAISE EXCEPTION '% may not record block % under epoch %', p_reader, p_block, p_epoch USING ERRCODE = 'ZS004';
  END IF;
END $function$;

CREATE OR REPLACE FUNCTION public.refuse_change()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
  RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'ZS003';
END $function$;

CREATE OR REPLACE FUNCTION public.refuse_direct_update()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
  IF pg_trigger_depth() < 2 THEN
    RAISE EXCEPTION '% change by entries and blocks alone: direct UPDATE refused', TG_TABLE_NAME USING ERRCODE = 'ZS003';
  END IF;
  RETURN NULL;
END $function$;

CREATE OR REPLACE FUNCTION public.rewind_reader(p_reader text, p_since_us bigint)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
  UPDATE block_readers r SET epoch = r.epoch + 1, holder = '', leased_until = '-infinity',
    block = least(r.block, coalesce(b.number, 0)), time_us = least(r.time_us, coalesce(b.time_us, 0))
  FROM (SELECT 1) AS one
  LEFT JOIN (SELECT number, time_us FROM blocks WHERE time_us < p_since_us ORDER BY time_us DESC LIMIT 1) AS b ON true
  WHERE r.reader = p_reader
$function$;

CREATE OR REPLACE FUNCTION public.slot_of(id uuid)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
  SELECT CASE substr(id::text, 15, 1) WHEN '7' THEN ('x' || right(id::text, 3))::bit(12)::int END
$function$;

CREATE OR REPLACE FUNCTION public.take_lease(p_reader text, p_holder text, p_ms integer)
 RETURNS SETOF block_readers
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
  INSERT INTO block_readers AS r (reader, holder, leased_until)
  VALUES (p_reader, p_holder, clock_timestamp() + make_interval(secs => p_ms / 1000.0))
  ON CONFLICT (reader) DO UPDATE SET
    holder = EXCLUDED.holder,
    leased_until = EXCLUDED.leased_until,
    epoch = r.epoch + (r.holder <> EXCLUDED.holder)::int
  WHERE r.holder = EXCLUDED.holder OR r.leased_until < clock_timestamp()
  RETURNING *
$function$;

GRANT DELETE, INSERT, SELECT ON TABLE async_ends TO zerosum_app;
GRANT DELETE, INSERT, SELECT ON TABLE request_traces TO zerosum_app;
GRANT DELETE, INSERT, SELECT ON TABLE verifications TO zerosum_app;
GRANT DELETE, INSERT, SELECT ON TABLE webhook_attempts TO zerosum_app;
GRANT DELETE, INSERT, SELECT ON TABLE webhook_events TO zerosum_app;
GRANT DELETE, INSERT, SELECT ON TABLE webhook_requests TO zerosum_app;
GRANT DELETE, INSERT, SELECT, UPDATE (attempts), UPDATE (dead_us), UPDATE (due_us), UPDATE (first_ms), UPDATE (reason), UPDATE (traceparent) ON TABLE queued_requests TO zerosum_app;
GRANT DELETE, INSERT, SELECT, UPDATE (attempts), UPDATE (delivered_us), UPDATE (due_us), UPDATE (is_taken), UPDATE (status), UPDATE (touched_us), UPDATE (tries) ON TABLE webhook_deliveries TO zerosum_app;
GRANT DELETE, INSERT, SELECT, UPDATE (block), UPDATE (index), UPDATE (partitions) ON TABLE consumer_marks TO zerosum_app;
GRANT DELETE, INSERT, SELECT, UPDATE (deleted_us), UPDATE (description), UPDATE (disabled_reason), UPDATE (disabled_us), UPDATE (event_types), UPDATE (failing_since_us), UPDATE (previous_secrets), UPDATE (resting_until_us), UPDATE (secret), UPDATE (secret_since_us), UPDATE (slow_until_us), UPDATE (url) ON TABLE webhook_endpoints TO zerosum_app;
GRANT EXECUTE ON FUNCTION append_block TO zerosum_app;
GRANT EXECUTE ON FUNCTION copy_history TO zerosum_app;
GRANT EXECUTE ON FUNCTION leave_lease TO zerosum_app;
GRANT EXECUTE ON FUNCTION lock_head TO zerosum_app;
GRANT EXECUTE ON FUNCTION queue_requests TO zerosum_app;
GRANT EXECUTE ON FUNCTION record_position TO zerosum_app;
GRANT EXECUTE ON FUNCTION rewind_reader TO zerosum_app;
GRANT EXECUTE ON FUNCTION slot_of TO PUBLIC;
GRANT EXECUTE ON FUNCTION take_lease TO zerosum_app;
GRANT INSERT, SELECT ON TABLE tenants TO zerosum_app;
GRANT INSERT, SELECT, TRUNCATE ON TABLE wallet_activity TO zerosum_app;
GRANT INSERT, SELECT, TRUNCATE, UPDATE (amount), UPDATE (number) ON TABLE daily_totals TO zerosum_app;
GRANT INSERT, SELECT, UPDATE (counted_us), UPDATE (is_full), UPDATE (missed), UPDATE (missed_from_us), UPDATE (missed_until_us), UPDATE (room) ON TABLE webhook_backlogs TO zerosum_app;
GRANT INSERT, SELECT, UPDATE (revoked_at) ON TABLE api_keys TO zerosum_app;
GRANT SELECT ON TABLE accounts TO zerosum_app;
GRANT SELECT ON TABLE arrivals TO zerosum_app;
GRANT SELECT ON TABLE block_readers TO zerosum_app;
GRANT SELECT ON TABLE blocks TO zerosum_app;
GRANT SELECT ON TABLE chain_head TO zerosum_app;
GRANT SELECT ON TABLE entries TO zerosum_app;
GRANT SELECT ON TABLE holds TO zerosum_app;
GRANT SELECT ON TABLE known_entries TO zerosum_app;
GRANT SELECT ON TABLE known_requests TO zerosum_app;
GRANT SELECT ON TABLE map_change TO zerosum_app;
GRANT SELECT ON TABLE moved_entries TO zerosum_app;
GRANT SELECT ON TABLE moved_history TO zerosum_app;
GRANT SELECT ON TABLE moved_requests TO zerosum_app;
GRANT SELECT ON TABLE requests TO zerosum_app;
GRANT SELECT ON TABLE sagas_in_flight TO zerosum_app;
GRANT SELECT ON TABLE schema_migrations TO zerosum_app;
GRANT SELECT ON TABLE shard_map TO zerosum_app;
GRANT SELECT ON TABLE wallets TO zerosum_app;
GRANT USAGE ON SCHEMA public TO PUBLIC;
GRANT USAGE ON SCHEMA public TO zerosum_app;
