import { randomUUID } from 'node:crypto'
import { connect } from '../../src/postgres/connect.ts'
import { accept, type WebhookEvent } from '../../src/webhooks/accept.ts'

/** Has an event of a tenant happen, as whoever reads the ledger would tell of it. @param url the database of the first shard */
export async function happen(url: string, event: Partial<WebhookEvent> & { tenantId: string }): Promise<void> {
  const sql = connect(url, { max: 1, name: 'test' })
  const known = { id: randomUUID(), type: 'transaction.posted' as const, href: '/v1/transactions/1' }
  const whole = { ...known, timeUs: Date.now() * 1000, data: {}, ...event }
  await sql.begin((sql) => accept(sql, [whole]))
  await sql.end()
}
