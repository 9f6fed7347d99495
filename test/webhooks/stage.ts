import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { onTestFinished } from 'vitest'
import { connect, type Sql } from '../../src/postgres/connect.ts'
import { newId } from '../../src/shards/newId.ts'
import { accept, type WebhookEvent } from '../../src/webhooks/accept.ts'
import { type Dispatcher, type DispatcherOptions, startDispatcher } from '../../src/webhooks/dispatcher.ts'
import { type Endpoints, openEndpoints } from '../../src/webhooks/endpoints.ts'
import type { TargetRules } from '../../src/webhooks/target.ts'
import { migratedDatabase } from '../support/database.ts'

export const LOOSE: TargetRules = { allowPrivate: true }

/** A database with a tenant, endpoints that may be on the loopback, and dispatchers as they are started. */
export type Stage = {
  readonly url: string
  readonly sql: Sql
  readonly endpoints: Endpoints
  readonly tenantId: string
  tenant(): Promise<string>
  /** Makes an endpoint; its id and secret. */
  listen(url: string, eventTypes?: string[], tenantId?: string): Promise<{ id: string; secret: string }>
  /** Has events happen; how many deliveries that makes. */
  happen(...events: Partial<WebhookEvent>[]): Promise<number>
  /** Has all endpoints count as quick, as if they had answered. */
  haveBeenQuick(): Promise<void>
  /** Starts a dispatcher, until the end of the test. */
  dispatch(options?: Partial<DispatcherOptions>): Dispatcher & { troubles: unknown[] }
  /** What everything here takes for the time: it stands still until it is moved. */
  readonly clock: { nowMs: number }
  /** The rows of the deliveries, oldest first, once `isWanted` says so of them. */
  deliveries(isWanted?: (rows: DeliveryRow[]) => boolean): Promise<DeliveryRow[]>
  attempts(): Promise<AttemptRow[]>
}

export type DeliveryRow = {
  id: string
  endpoint_id: string
  status: string
  attempts: number
  tries: number
  due_us: number
  is_taken: boolean
}
export type AttemptRow = { number: number; status_code: number | null; error: string | null; response: string | null }

export async function openStage(rules: TargetRules = LOOSE): Promise<Stage> {
  const url = await migratedDatabase()
  const sql = connect(url, { max: 2, name: 'test' })
  const clock = { nowMs: Date.now() }
  const endpoints = openEndpoints(url, rules, () => clock.nowMs)
  onTestFinished(async () => {
    await Promise.all([endpoints.close(), sql.end()])
  })
  const tenant = async () => {
    const id = newId(0)
    await sql`INSERT INTO tenants (id, name) VALUES (${id}, ${id})`
    return id
  }
  const tenantId = await tenant()
  const stage: Stage = {
    ...{ url, sql, endpoints, tenantId, tenant, clock },
    async listen(url, eventTypes = ['*'], owner = tenantId) {
      const { endpoint, secret = '' } = await endpoints.create(owner, randomUUID(), { url, eventTypes })
      return { id: endpoint.id, secret }
    },
    async happen(...events) {
      const whole = events.map((event) => ({
        ...{ id: randomUUID(), tenantId, type: 'transaction.posted' as const, timeUs: clock.nowMs * 1000, data: {} },
        ...{ href: '/v1/transactions/1', ...event },
      }))
      return (await sql.begin((sql) => accept(sql, whole, { nowMs: clock.nowMs }))).deliveries
    },
    async haveBeenQuick() {
      await sql`UPDATE webhook_endpoints SET slow_until_us = 0`
    },
    dispatch(options = {}) {
      const troubles: unknown[] = []
      const dispatcher = startDispatcher({
        ...{ url, rules, intervalMs: 50, clockMs: () => clock.nowMs },
        onTrouble: (error) => troubles.push(error),
        ...options,
      })
      onTestFinished(() => dispatcher.stop())
      return { ...dispatcher, troubles }
    },
    async deliveries(isWanted = () => true) {
      for (;;) {
        const rows = await sql<(Omit<DeliveryRow, 'due_us'> & { due_us: bigint })[]>`
          SELECT id, endpoint_id, status, attempts, tries, due_us, is_taken FROM webhook_deliveries ORDER BY id`
        const found = rows.map((row) => ({ ...row, due_us: Number(row.due_us) }))
        if (isWanted(found)) return found
        await sleep(20)
      }
    },
    attempts: async () => [
      ...(await sql<AttemptRow[]>`
        SELECT number, status_code, error, response FROM webhook_attempts ORDER BY delivery_id, number`),
    ],
  }
  return stage
}

/** All of them ended as that. */
export const allAre = (status: string) => (rows: DeliveryRow[]) => rows.every((row) => row.status === status)
