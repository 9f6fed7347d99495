import { ZerosumError } from '../errors.ts'
import { connectOrShare, type Sql, type Tx } from '../postgres/connect.ts'
import { newId } from '../shards/newId.ts'
import { newSecret } from './signature.ts'
import {
  type Delivery,
  findDelivery,
  type LoggedDelivery,
  listDeliveries,
  lockDelivery,
  resendDelivery,
} from './sql/deliveries.ts'
import {
  addEndpoint,
  countEndpoints,
  type Endpoint,
  findEndpoint,
  listEndpoints,
  lockEndpoint,
  lockTenant,
  removeEndpoint,
  secretsOf,
  writeEndpoint,
} from './sql/endpoints.ts'
import { addKnown, findKnown } from './sql/requests.ts'
import { findTarget, type TargetRules } from './target.ts'

/** A page of a list, newest first. */
type Page = { readonly limit: number; readonly before: string | null }

export type NewEndpoint = {
  readonly url: string
  readonly description?: string
  readonly eventTypes: readonly string[]
}

export type EndpointChange = Partial<NewEndpoint> & {
  readonly disabled?: boolean
  /** A new secret; the ones before it are still signed with for that long. */
  readonly rotateSecret?: { readonly overlapSeconds: number }
}

/** An endpoint with the secret that was made for it just now: the one time that it is shown. */
export type Shown = { readonly endpoint: Endpoint; readonly secret?: string }

/** What tenants do with their webhook endpoints. Of other tenants' nothing is found. */
export type Endpoints = {
  /**
   * @param key an idempotency key; with it, the same is answered for a day, the secret too as long as it is the current one
   * @throws webhook_url_refused, too_many_webhook_endpoints, idempotency_key_reused
   */
  create(tenantId: string, key: string, asked: NewEndpoint): Promise<Shown & { isReplay: boolean }>
  /** @throws not_found, as everything below */
  find(tenantId: string, id: string): Promise<Endpoint>
  list(tenantId: string, page: Page): Promise<Endpoint[]>
  /** @throws webhook_url_refused */
  change(tenantId: string, id: string, change: EndpointChange): Promise<Shown>
  /** Nothing more is delivered to it, except what is under way. */
  remove(tenantId: string, id: string): Promise<void>
  deliveries(tenantId: string, id: string, page: Page, status: Delivery['status'] | null): Promise<Delivery[]>
  delivery(tenantId: string, id: string, deliveryId: string): Promise<LoggedDelivery>
  /**
   * Makes a delivery due now, with the whole schedule before it; one that is under way is left to it.
   * @throws webhook_endpoint_disabled, idempotency_key_reused
   */
  resend(
    tenantId: string,
    key: string,
    id: string,
    deliveryId: string,
  ): Promise<{ delivery: LoggedDelivery; isReplay: boolean }>
  close(): Promise<void>
}

export const ENDPOINTS_MAX = 100
/** Secrets that are signed with beside the current one. */
const PREVIOUS_SECRETS_MAX = 4
const CONNECTIONS = 2
const ANSWER_MS_MAX = 5_000

/**
 * @param place the database of the first shard: its URL, or a pool on it that others use too
 * @param clockMs milliseconds since 1970
 */
export function openEndpoints(place: string | Sql, rules: TargetRules, clockMs: () => number = Date.now): Endpoints {
  const sql = connectOrShare(place, { max: CONNECTIONS, name: 'zerosum webhook endpoints', answerMsMax: ANSWER_MS_MAX })

  return {
    async create(tenantId, key, { url, description, eventTypes }) {
      const payload = JSON.stringify({ kind: 'create', url, description, eventTypes })
      // A replay does not depend on what the name servers say now.
      const known = await created(sql, tenantId, key, payload)
      if (known) return known
      const href = await checkedUrl(url, rules)
      return await sql.begin(async (sql) => {
        await lockTenant(sql, tenantId)
        const known = await created(sql, tenantId, key, payload)
        if (known) return known
        if ((await countEndpoints(sql, tenantId)) >= ENDPOINTS_MAX) throw new ZerosumError('too_many_webhook_endpoints')
        const nowUs = clockMs() * 1000
        const endpoint = newEndpoint(newId(0), { url: href, eventTypes, description: description ?? null }, nowUs)
        const secret = newSecret()
        await addEndpoint(sql, tenantId, endpoint, secret)
        await addKnown(sql, { tenantId, key, payload, subject: endpoint.id, nowUs })
        return { endpoint, secret, isReplay: false }
      })
    },
    find: (tenantId, id) => found(findEndpoint(sql, tenantId, id)),
    list: (tenantId, page) => listEndpoints(sql, tenantId, page),
    async change(tenantId, id, { url, description, eventTypes, disabled, rotateSecret }) {
      const href = url === undefined ? undefined : await checkedUrl(url, rules)
      return await sql.begin(async (sql) => {
        const before = await found(lockEndpoint(sql, tenantId, id))
        const nowUs = clockMs() * 1000
        const endpoint: Endpoint = {
          ...before,
          ...(href === undefined ? {} : { url: href }),
          ...(description === undefined ? {} : { description }),
          ...(eventTypes === undefined ? {} : { eventTypes }),
          ...(disabled === undefined || disabled === (before.disabledUs !== null) ? {} : ability(disabled, nowUs)),
        }
        if (!rotateSecret) {
          await writeEndpoint(sql, endpoint)
          return { endpoint }
        }
        const secret = newSecret()
        const { current, previous } = await found(secretsOf(sql, id))
        const untilUs = nowUs + rotateSecret.overlapSeconds * 1_000_000
        const old = [
          { secret: current, untilUs },
          ...previous.map((one) => ({ ...one, untilUs: Math.min(one.untilUs, untilUs) })),
        ]
        const valid = old.filter((one) => one.untilUs > nowUs).slice(0, PREVIOUS_SECRETS_MAX)
        await writeEndpoint(sql, endpoint, { current: secret, previous: valid, sinceUs: nowUs })
        return { endpoint, secret }
      })
    },
    async remove(tenantId, id) {
      if (!(await removeEndpoint(sql, tenantId, id, clockMs() * 1000))) throw new ZerosumError('not_found')
    },
    async deliveries(tenantId, id, page, status) {
      await found(findEndpoint(sql, tenantId, id))
      return await listDeliveries(sql, id, page, status)
    },
    async delivery(tenantId, id, deliveryId) {
      await found(findEndpoint(sql, tenantId, id))
      return await found(findDelivery(sql, id, deliveryId))
    },
    async resend(tenantId, key, id, deliveryId) {
      const payload = JSON.stringify({ kind: 'resend', id, deliveryId })
      return await sql.begin(async (sql) => {
        await lockTenant(sql, tenantId)
        await found(findEndpoint(sql, tenantId, id))
        // In the order in which an attempt is recorded, so that the two do not wait for each other.
        await lockDelivery(sql, id, deliveryId)
        const endpoint = await found(lockEndpoint(sql, tenantId, id))
        await found(findDelivery(sql, id, deliveryId))
        const known = await findKnown(sql, tenantId, key)
        if (known && known.payload !== payload) throw new ZerosumError('idempotency_key_reused')
        if (!known) {
          if (endpoint.disabledUs !== null) throw new ZerosumError('webhook_endpoint_disabled')
          const nowUs = clockMs() * 1000
          await resendDelivery(sql, deliveryId, nowUs)
          await addKnown(sql, { tenantId, key, payload, subject: deliveryId, nowUs })
        }
        return { delivery: await found(findDelivery(sql, id, deliveryId)), isReplay: known !== undefined }
      })
    },
    close: () => sql.end({ timeout: 5 }),
  }
}

/** What the key made, if it did already: as it was then, with the secret while that is still the endpoint's. */
async function created(
  sql: Sql | Tx,
  tenantId: string,
  key: string,
  payload: string,
): Promise<(Shown & { isReplay: boolean }) | undefined> {
  const known = await findKnown(sql, tenantId, key)
  if (!known) return undefined
  if (known.payload !== payload) throw new ZerosumError('idempotency_key_reused')
  const { url, description = null, eventTypes } = JSON.parse(payload) as NewEndpoint
  const endpoint = newEndpoint(known.subject, { url: new URL(url).href, eventTypes, description }, known.createdUs)
  const secrets = await secretsOf(sql, known.subject)
  const isStillFirst = secrets?.sinceUs === known.createdUs
  return { endpoint, ...(isStillFirst ? { secret: secrets.current } : {}), isReplay: true }
}

function newEndpoint(
  id: string,
  { url, eventTypes, description }: Pick<Endpoint, 'url' | 'eventTypes' | 'description'>,
  createdUs: number,
): Endpoint {
  const untroubled = { disabledUs: null, disabledReason: null, failingSinceUs: null, restingUntilUs: 0 }
  return { id, url, eventTypes, description, createdUs, ...untroubled, isFull: false, missed: null }
}

/** Enabled again, an endpoint has a clean slate. */
function ability(disabled: boolean, nowUs: number): Partial<Endpoint> {
  return disabled
    ? { disabledUs: nowUs, disabledReason: 'manual' }
    : { disabledUs: null, disabledReason: null, failingSinceUs: null, restingUntilUs: 0 }
}

async function checkedUrl(text: string, rules: TargetRules): Promise<string> {
  const target = await findTarget(text, rules)
  if ('refusal' in target) throw new ZerosumError('webhook_url_refused', `The URL is refused: ${target.refusal}.`)
  return target.url.href
}

/** @throws not_found */
async function found<T>(something: Promise<T | undefined>): Promise<T> {
  const one = await something
  if (one === undefined) throw new ZerosumError('not_found')
  return one
}
