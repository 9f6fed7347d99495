-- Webhooks: endpoints that tenants named, and what is to be delivered to them. Kept on the first shard; the ledger does not depend on it.

CREATE TABLE webhook_endpoints (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants,
  url text NOT NULL CHECK (length(url) BETWEEN 1 AND 2048),
  description text,
  event_types text[] NOT NULL CHECK (cardinality(event_types) BETWEEN 1 AND 50),
  -- Signing needs them as they are. They go with the endpoint.
  secret text,
  secret_since_us int8 NOT NULL,
  -- [{ secret, untilUs }], newest first: what is still signed with after a rotation.
  previous_secrets json NOT NULL DEFAULT '[]',
  disabled_us int8,
  disabled_reason text CHECK (disabled_reason IN ('manual', 'gone', 'failing')),
  -- Nothing has gone through since then.
  failing_since_us int8,
  -- It asked to be left alone until then.
  resting_until_us int8 NOT NULL DEFAULT 0,
  created_us int8 NOT NULL,
  -- Its row stays until its deliveries are gone, which are removed a portion at a time.
  deleted_us int8,
  CONSTRAINT webhook_endpoints_disabled_for_a_reason CHECK ((disabled_us IS NULL) = (disabled_reason IS NULL)),
  CONSTRAINT webhook_endpoints_secret_until_deleted CHECK ((secret IS NULL) = (deleted_us IS NOT NULL))
);
CREATE INDEX webhook_endpoints_by_tenant ON webhook_endpoints (tenant_id, id DESC) WHERE deleted_us IS NULL;
CREATE INDEX webhook_endpoints_deleted ON webhook_endpoints (deleted_us) WHERE deleted_us IS NOT NULL;

-- What happened, as it is sent: once for all endpoints of its tenant. The id is made of the event's own.
CREATE TABLE webhook_events (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  type text NOT NULL,
  body text NOT NULL CHECK (octet_length(body) <= 262144),
  created_us int8 NOT NULL
);
CREATE INDEX webhook_events_by_age ON webhook_events (created_us);

CREATE TABLE webhook_deliveries (
  id uuid PRIMARY KEY,
  endpoint_id uuid NOT NULL REFERENCES webhook_endpoints,
  event_id uuid NOT NULL REFERENCES webhook_events,
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'dead')),
  -- Of all time; the number of the last one is what its outcome must name to be recorded.
  attempts int NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  -- Since it was made, or last resent: the place in the schedule.
  tries int NOT NULL DEFAULT 0 CHECK (tries >= 0),
  -- When it is to be taken up; while somebody has it, when it is to be taken from them.
  due_us int8 NOT NULL,
  is_taken boolean NOT NULL DEFAULT false,
  created_us int8 NOT NULL,
  -- Its last change: what its age is counted from.
  touched_us int8 NOT NULL,
  delivered_us int8,
  CONSTRAINT webhook_deliveries_once UNIQUE (event_id, endpoint_id)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, due_us) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_by_endpoint ON webhook_deliveries (endpoint_id, id DESC);
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (touched_us);

CREATE TABLE webhook_attempts (
  delivery_id uuid NOT NULL REFERENCES webhook_deliveries ON DELETE CASCADE,
  number int NOT NULL,
  began_us int8 NOT NULL,
  took_ms int NOT NULL,
  -- No status: no answer, and `error` says why.
  status_code int,
  error text,
  -- The beginning of the answer's body.
  response text,
  PRIMARY KEY (delivery_id, number)
);

-- Idempotency keys of calls that make something here; they are not requests to the ledger.
CREATE TABLE webhook_requests (
  tenant_id uuid NOT NULL,
  key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  payload json NOT NULL,
  -- The endpoint that was made, or the delivery that was resent.
  subject uuid NOT NULL,
  created_us int8 NOT NULL,
  PRIMARY KEY (tenant_id, key)
);
CREATE INDEX webhook_requests_by_age ON webhook_requests (created_us);

GRANT SELECT, INSERT, DELETE ON
  webhook_endpoints, webhook_events, webhook_deliveries, webhook_attempts, webhook_requests TO zerosum_app;
GRANT UPDATE (url, description, event_types, secret, secret_since_us, previous_secrets, disabled_us, disabled_reason,
              failing_since_us, resting_until_us, deleted_us) ON webhook_endpoints TO zerosum_app;
GRANT UPDATE (status, attempts, tries, due_us, is_taken, touched_us, delivered_us) ON webhook_deliveries TO zerosum_app;
