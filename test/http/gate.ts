import type { Outcome } from '../../src/core/post.ts'
import type { Kind, Request } from '../../src/core/request.ts'
import { LedgerUnavailable } from '../../src/ledger/poster.ts'
import type { Router } from '../../src/shards/router.ts'
import type { Shard } from '../../src/shards/shard.ts'

/**
 * What becomes of a request to a shard: `silent`, it is posted when the gate opens; `unavailable`, it is not posted, which is said
 * at once; `lost answers`, it is posted, but it is said that nobody knows.
 */
export type Trouble = 'silent' | 'unavailable' | 'lost answers'

/** Stands before the batcher of one shard. */
export type Gate = {
  wrap(router: Router): Router
  /** @param kinds of requests that meet it; all, unless given */
  shut(trouble: Trouble, kinds?: readonly Kind[]): void
  /** Whether nothing at all gets through as it should. */
  readonly isShut: boolean
  /** What waits for the gate to open. */
  readonly kept: readonly Kind[]
  /** What was kept goes through, the last that came first. */
  open(): void
}

export function createGate(number: number): Gate {
  let meets: (kind: Kind) => Trouble | undefined = () => undefined
  let isShut = false
  let kept: { kind: Kind; go: () => void }[] = []

  async function pass(request: Request, post: () => Promise<Outcome>): Promise<Outcome> {
    const trouble = meets(request.operation.kind)
    if (trouble === undefined) return await post()
    if (trouble === 'silent') {
      await new Promise<void>((go) => kept.push({ kind: request.operation.kind, go }))
      return await post()
    }
    if (trouble === 'lost answers') await post()
    throw new LedgerUnavailable(`shard ${number} is not available`)
  }

  return {
    wrap(router) {
      const shards = router.shards.map((shard): Shard => {
        if (shard.number !== number) return shard
        const { batcher } = shard
        const submit = (request: Request) => pass(request, () => batcher.submit(request))
        return { ...shard, batcher: { ...batcher, submit } }
      })
      const shard = ({ number }: { number: number }): Shard => {
        const found = shards[number]
        if (!found) throw new Error(`no shard ${number}`)
        return found
      }
      return {
        ...router,
        shards,
        shard: (number) => shard({ number }),
        forHolder: (tenantId, holderId) => shard(router.forHolder(tenantId, holderId)),
        forId: (id) => shard(router.forId(id)),
      }
    },
    shut(trouble, kinds) {
      isShut = kinds === undefined
      meets = (kind) => (kinds === undefined || kinds.includes(kind) ? trouble : undefined)
    },
    get isShut() {
      return isShut
    },
    get kept() {
      return kept.map(({ kind }) => kind)
    },
    open() {
      isShut = false
      meets = () => undefined
      const waiting = kept.reverse()
      kept = []
      for (const { go } of waiting) go()
    },
  }
}
