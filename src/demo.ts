import { randomUUID } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { formatId, slotOf } from './core/ids.ts'
import { requestOf } from './core/request.ts'
import type { Sagas } from './saga/sagas.ts'
import { newId } from './shards/newId.ts'
import { type Directory, newKey, SCOPES } from './tenants/directory.ts'

/** What a newcomer needs for a first transfer. */
export type Demo = { key: string; wallets: { id: string; holderId: string; currency: string }[] }

const WAIT_MS_MAX = 10_000

const SAMPLES = [
  { holderId: 'alice', currency: 'USD', name: "Alice's dollars", amount: 1_000_00n },
  { holderId: 'bob', currency: 'USD', name: "Bob's dollars", amount: 250_00n },
  { holderId: 'carol', currency: 'JPY', name: "Carol's yen", amount: 80_000n },
]

/**
 * Sees to it that the tenant `demo` is there, with a key and a few funded wallets. They are opened and funded like any other, under
 * fixed idempotency keys, so doing it at every start changes nothing.
 * @param chosenKey the key to use; otherwise one is made and kept in the data directory
 */
export async function ensureDemo(
  { directory, sagas }: { directory: Directory; sagas: Sagas },
  { chosenKey, dataDir }: { chosenKey: string | undefined; dataDir: string },
): Promise<Demo> {
  const tenantId = await directory.ensureTenant('demo')
  const key = chosenKey ?? (await keptKey(join(dataDir, 'demo-key')))
  await directory.addKey(tenantId, key, SCOPES)
  const wallets = await Promise.all(
    SAMPLES.map(async ({ holderId, currency, name, amount }) => {
      const slot = slotOf(tenantId, holderId)
      const { record } = await sagas.submit(
        requestOf(newId(slot), tenantId, 'demo-open', {
          ...{ kind: 'wallet-open', holderId, currency, overdraftLimit: 0n, limits: {}, name },
        }),
        WAIT_MS_MAX,
      )
      const walletId = record.id
      await sagas.submit(
        requestOf(newId(slot), tenantId, 'demo-funds', {
          kind: 'top-up',
          walletId,
          amount,
          currency,
          reference: 'demo',
        }),
        WAIT_MS_MAX,
      )
      return { id: formatId('wal', walletId), holderId, currency }
    }),
  )
  return { key, wallets }
}

async function keptKey(file: string): Promise<string> {
  const kept = await readFile(file, 'utf8').catch(() => undefined)
  if (kept) return kept.trim()
  const key = newKey()
  await writeFile(file, `${key}\n`, { mode: 0o600 })
  return key
}

/** How to use it, for the terminal. */
export function demoText(url: string, { key, wallets }: Demo): string {
  const [from, to] = wallets
  const list = wallets.map(({ id, holderId, currency }) => `  ${holderId.padEnd(6)} ${currency}  ${id}`).join('\n')
  return `The tenant "demo" has these wallets:
${list}

Move 12.50 USD from alice to bob:

curl -sS ${url}/v1/transfers \\
  -H 'Authorization: Bearer ${key}' \\
  -H 'Idempotency-Key: ${randomUUID()}' \\
  -H 'Content-Type: application/json' \\
  -d '{"from":"${from?.id}","to":"${to?.id}","amount":"1250","currency":"USD"}'

and see what it did:

curl -sS ${url}/v1/wallets/${from?.id}/balance -H 'Authorization: Bearer ${key}'
`
}
