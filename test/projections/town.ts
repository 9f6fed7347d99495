import { seededRandom } from '../../bench/load.ts'
import { untilSagasOver } from '../bus/stage.ts'
import { type Api, type Client, openApi } from '../support/api.ts'
import { migratedDatabase } from '../support/database.ts'

/** A ledger of two shards, where everything happens that moves money, within shards and between them. */
export type Town = {
  readonly api: Api
  readonly urls: readonly string[]
  /** So many requests, the same ones for the same seed; some are refused, some come to nothing between shards. */
  live(seed: number, count: number): Promise<void>
  close(): Promise<void>
}

type Made = { client: Client; wallets: string[]; yen: string[]; transfers: string[]; holds: string[] }

export async function openTown(): Promise<Town> {
  const urls = [await migratedDatabase(), await migratedDatabase()]
  const api = await openApi({ url: urls[0] ?? '', moreUrls: urls.slice(1) })
  const tenants = await Promise.all([settle(api.alpha), settle(api.beta)])

  async function one(random: () => number): Promise<void> {
    const pick = <T>(items: readonly T[]) => items[Math.floor(random() * items.length)] as T
    const { client, wallets, yen, transfers, holds } = pick(tenants)
    const amount = 1 + Math.floor(random() * 200)
    const dice = random()
    const keep = (to: string[], { status, body }: { status: number; body: unknown }) => {
      if (status < 300) to.push((body as { id: string }).id)
    }
    if (dice < 0.3) keep(transfers, await client.pay(pick(wallets), pick(wallets), amount))
    else if (dice < 0.42) {
      const [a, b, c] = [pick(wallets), pick(wallets), pick(wallets)]
      const legs = [
        { from: a, to: b, amount: `${amount}`, currency: 'USD' },
        { from: a, to: c, amount: '7', currency: 'USD' },
        ...(random() < 0.5 ? [{ from: yen[0], to: yen[1], amount: '100', currency: 'JPY' }] : []),
      ]
      keep(transfers, await client.call('POST', '/v1/transfers', { legs, memo: `a "split"\\ ${amount}` }))
    } else if (dice < 0.52) {
      const body = { walletId: pick(wallets), amount: `${amount}`, currency: 'USD' }
      keep(transfers, await client.call('POST', '/v1/top-ups', body))
    } else if (dice < 0.6) {
      const body = { walletId: pick(wallets), amount: `${amount}`, currency: 'USD', destination: 'IBAN 1' }
      keep(transfers, await client.call('POST', '/v1/withdrawals', body))
    } else if (dice < 0.72 && transfers.length > 0) {
      const body = random() < 0.5 ? {} : { amount: '1' }
      await client.call('POST', `/v1/transfers/${pick(transfers)}/reverse`, body)
    } else if (dice < 0.86) keep(holds, await client.hold(pick(wallets), pick(wallets), amount))
    else if (holds.length > 0) {
      const what = random() < 0.6 ? 'capture' : 'release'
      const body = what === 'capture' && random() < 0.5 ? { amount: '1' } : {}
      await client.call('POST', `/v1/holds/${pick(holds)}/${what}`, body)
    }
  }

  return {
    ...{ api, urls },
    async live(seed, count) {
      const random = seededRandom(seed)
      for (let left = count; left > 0; left -= 4) await Promise.all(Array.from({ length: 4 }, () => one(random)))
      await untilSagasOver(urls)
    },
    close: () => api.close(),
  }
}

async function settle(client: Client): Promise<Made> {
  const full = { limits: { balanceMax: '1100' } }
  const wallets = await Promise.all(Array.from({ length: 8 }, (_, i) => client.wallet(1_000, i < 3 ? full : {})))
  const yen = await Promise.all([1, 2].map(() => client.wallet(100_000, { currency: 'JPY' })))
  return { client, wallets, yen, transfers: [], holds: [] }
}
