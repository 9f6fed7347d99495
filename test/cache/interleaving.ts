import { type BalanceCache, type Cached, type CachedBalance, isMissing, versionOf } from '../../src/cache/cache.ts'
import { balanceAt, missing } from './contract.ts'

/** What takes entries away, or puts old ones in their place. */
export type Disruptions = {
  /** All grow too old. */
  age(): Promise<void>
  /** As a replica that lags has it, once it is the one that is asked. */
  snapshot?(): Promise<{ restore(): Promise<void> }>
}

export type Exploration = {
  cache: BalanceCache
  disruptions: Disruptions
  /** From 0 to 1. */
  random: () => number
  steps: number
}

const WALLETS = 4

/** A wallet as the ledger has it; none before it is opened. */
type Wallet = {
  readonly id: string
  readonly history: CachedBalance[]
  /** What the bus has still to say, in order, and what it has said, which it may say again. */
  readonly unsaid: CachedBalance[]
  readonly said: CachedBalance[]
}

/**
 * One run of a ledger, a bus and many nodes over a cache, in an order that chance makes: blocks, their writes behind, which may come late, in any order
 * or never; loads whose answers are written long after they were true; the bus, which says everything at least once; and all that happens to
 * entries by themselves. The rules:
 *
 *   what is there was true once, to the last digit;
 *   once the bus has said something, the cache has that or what came after it;
 *   the cache never goes back, unless an entry was taken away or an old store took the place of a newer one;
 *   and when the bus has said of every wallet what happened after such a thing, the cache has what the ledger has.
 *
 * @returns the first rule that was broken, with what was done
 */
export async function explore({ cache, disruptions, random, steps }: Exploration): Promise<string | undefined> {
  const pick = <T>(from: readonly T[]): T | undefined => from[Math.floor(random() * from.length)]
  const take = <T>(from: T[]): T | undefined => from.splice(Math.floor(random() * from.length), 1)[0]
  const wallets = Array.from({ length: WALLETS }, (): Wallet => {
    const id = `${Math.floor(random() * 1e15)}`
    return { id, history: [], unsaid: [], said: [] }
  })
  /** Writes that are on their way to the cache. */
  const underWay: Cached[] = []
  const log: string[] = []
  let nowUs = 1_000
  let snapshot: { restore(): Promise<void> } | undefined

  const lookAtAll = () => Promise.all(wallets.map(({ id }) => cache.read(id)))
  const show = (entry: Cached | undefined) => (entry ? `${versionOf(entry)}@${entry.asOfUs}` : 'nothing')

  function commit(wallet: Wallet): void {
    const version = wallet.history.length
    const balance = balanceAt(wallet.id, version, { asOfUs: nowUs, posted: BigInt(Math.floor(random() * 1e9)) })
    wallet.history.push(balance)
    wallet.unsaid.push(balance)
    underWay.push(balance)
  }

  function load({ id, history }: Wallet): void {
    const now = history.at(-1)
    underWay.push(now ? { ...now, asOfUs: nowUs } : missing(id, nowUs))
  }

  async function say(wallet: Wallet): Promise<string | undefined> {
    const event = wallet.unsaid.shift()
    if (!event) return undefined
    wallet.said.push(event)
    await cache.write([event])
    const there = await cache.read(wallet.id)
    const isThere = there && versionOf(there) >= event.version
    return isThere ? undefined : `the bus said ${event.version}, and there is ${show(there)}`
  }

  async function keep(): Promise<void> {
    snapshot = await disruptions.snapshot?.()
  }

  /** What may happen, and how often; what begins with a star may take away what is there. */
  const deeds: [weight: number, name: string, work: (wallet: Wallet) => unknown][] = [
    [30, 'commit', commit],
    [30, 'load', load],
    [40, 'write', () => cache.write(Array.from({ length: 1 + random() * 3 }, () => take(underWay)).filter((e) => !!e))],
    [10, 'lose', () => void take(underWay)],
    [25, 'say', say],
    [10, 'say-again', ({ said }) => cache.write([pick(said)].filter((entry) => !!entry))],
    [5, '*forget', ({ id }) => cache.forget([id])],
    [1, '*age', () => disruptions.age()],
    [1, '*flush', () => cache.forget(wallets.map(({ id }) => id))],
    [2, 'snapshot', keep],
    [2, '*restore', () => snapshot?.restore()],
  ]
  const urn = deeds.flatMap(([weight, name, work]) => Array.from({ length: weight }, () => [name, work] as const))

  function check(before: (Cached | undefined)[], after: (Cached | undefined)[], mayFall: boolean): string | undefined {
    for (const [i, wallet] of wallets.entries()) {
      const [was, is] = [before[i], after[i]]
      const truth = is && !isMissing(is) ? wallet.history[is.version] : undefined
      if (is && !isMissing(is) && is.posted !== truth?.posted) return `${show(is)} was never true`
      if (is && !isMissing(is) && is.asOfUs < (truth?.asOfUs ?? 0)) return `${show(is)} was not true yet`
      if (mayFall || !was) continue
      const isBack =
        !is || versionOf(is) < versionOf(was) || (versionOf(is) === versionOf(was) && is.asOfUs < was.asOfUs)
      if (isBack) return `from ${show(was)} back to ${show(is)}`
    }
    return undefined
  }

  const told = (broken: string) => `${broken}; after ${log.slice(-12).join(', ')}`

  let before = await lookAtAll()
  for (let step = 0; step < steps; step++) {
    nowUs += 1
    const [name, work] = pick(urn) ?? ['', () => {}]
    const wallet = pick(wallets)
    if (!wallet) continue
    log.push(name)
    const broken: unknown = await work(wallet)
    const after = await lookAtAll()
    const found = typeof broken === 'string' ? broken : check(before, after, name.startsWith('*'))
    if (found !== undefined) return told(found)
    before = after
  }

  // The next change of every wallet, and all that is still under way, in any order.
  nowUs += 1
  wallets.forEach(commit)
  while (underWay.length > 0 || wallets.some(({ unsaid }) => unsaid.length > 0)) {
    const wallet = pick(wallets)
    const late = random() < 0.5 ? take(underWay) : undefined
    if (late) await cache.write([late])
    const broken = wallet && (await say(wallet))
    if (broken !== undefined) return told(broken)
  }
  for (const [i, is] of (await lookAtAll()).entries()) {
    const last = wallets[i]?.history.at(-1)
    if (!is || !last || versionOf(is) !== last.version) return told(`${show(is)} stays, and ${show(last)} is true`)
  }
  return undefined
}

/** The rules that a cache must not break, each broken in turn. What they do to a cache, over the whole cache's face. */
export const MUTANTS: Readonly<Record<string, (cache: BalanceCache) => BalanceCache>> = {
  'the last to write wins': (cache) => ({
    ...cache,
    async write(entries) {
      await cache.forget(entries.map(({ walletId }) => walletId))
      await cache.write(entries)
    },
  }),
  'the first to write wins': (cache) => ({
    ...cache,
    async write(entries) {
      for (const entry of entries) if (!(await cache.read(entry.walletId))) await cache.write([entry])
    },
  }),
  'word that there is none wins': (cache) => ({
    ...cache,
    async write(entries) {
      await cache.forget(entries.filter(isMissing).map(({ walletId }) => walletId))
      await cache.write(entries)
    },
  }),
}
