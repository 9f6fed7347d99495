import type { Hold } from '../../src/core/hold.ts'
import { slotOfId } from '../../src/core/ids.ts'
import { isMovingSlot, type MapChange, type OpenChange } from '../../src/core/mapChange.ts'
import type { PostingContext } from '../../src/core/move.ts'
import { post } from '../../src/core/post.ts'
import { holdPairs, isRelocation, type RelocationOperation } from '../../src/core/relocation.ts'
import { type Request, requestOf } from '../../src/core/request.ts'
import type { Protocol } from './moving.scenarios.ts'
import { type Message, Mover, type Work } from './moving.ts'

/** Mistakes in how slots are moved. */
export const MUTANTS: Readonly<Record<string, Protocol>> = {
  'nobody waits for sagas to end': {
    mover: class extends Mover {
      protected override *isDrained(): Work<boolean> {
        yield
        return true
      }
    },
  },
  'only the shard that the slots leave is asked for sagas': {
    mover: class extends Mover {
      protected override *isDrained(change: MapChange): Work<boolean> {
        yield
        return this.stage.world.countSagasOf(change.from, change) === 0
      }
    },
  },
  'sagas are waited for before the slots are closed': {
    mover: class extends Mover {
      #isSeen = false
      protected override *close(change: MapChange): Work<void> {
        this.#isSeen = yield* super.isDrained(change)
        yield* super.close(change)
      }
      protected override *isDrained(): Work<boolean> {
        yield
        return this.#isSeen
      }
    },
  },
  'a third shard is not closed': {
    mover: class extends Mover {
      protected override *close(change: MapChange): Work<void> {
        const shards = this.all.filter((shard) => shard === change.from || shard === change.to)
        yield* this.askAll(shards.map((shard) => ({ shard, request: this.request({ kind: 'map-close', change }) })))
      }
    },
  },
  'the shard that the slots come to is opened before they have arrived': {
    mover: class extends Mover {
      protected override *carry(change: MapChange, holds: readonly Hold[]): Work<void> {
        yield* this.open(change.to, change, true)
        yield* super.carry(change, holds)
      }
    },
  },
  'the shard that the slots leave is opened before they have left': {
    mover: class extends Mover {
      protected override *carry(change: MapChange, holds: readonly Hold[]): Work<void> {
        yield* this.open(change.from, change, true)
        yield* super.carry(change, holds)
      }
    },
  },
  'holds are left where they are on a third shard': {
    mover: class extends Mover {
      protected override holdMoves(shard: number, change: MapChange, holds: readonly Hold[]): Message[] {
        return shard === change.from || shard === change.to ? super.holdMoves(shard, change, holds) : []
      }
    },
  },
  'where the other end of a hold stays, it goes on with the shard that was left': {
    post: (state, requests, context) =>
      post(
        state,
        requests.map((request) =>
          changed(request, (operation) => {
            if (operation.kind !== 'hold-move' || holdPairs(operation, context.shard).length < 2) return operation
            return { ...operation, after: operation.before }
          }),
        ),
        context,
      ),
  },
  'holds move after the wallets have left': {
    mover: class extends Mover {
      #held: Message[] = []
      protected override holdMoves(shard: number, change: MapChange, holds: readonly Hold[]): Message[] {
        const moves = super.holdMoves(shard, change, holds)
        if (shard === change.to) return [...this.#held, ...moves]
        this.#held = [...this.#held, ...moves]
        return []
      }
    },
  },
  'holds of payees elsewhere are not looked for': {
    mover: class extends Mover {
      protected override *depart(change: MapChange, holds: readonly Hold[]): Work<boolean> {
        return yield* super.depart(
          change,
          holds.filter(({ from }) => isMovingSlot(change, slotOfId(from))),
        )
      }
    },
  },
  'who takes a change up looks for holds himself': {
    mover: class extends Mover {
      protected override *finish(change: MapChange, _: readonly Hold[]): Work<true> {
        const { world } = this.stage
        return yield* super.finish(
          change,
          world.numbers.flatMap((shard) => world.holdsOf(shard, change)),
        )
      }
    },
  },
  'wallets arrive before it is decided that they leave': {
    mover: class extends Mover {
      protected override *depart(change: MapChange, holds: readonly Hold[]): Work<boolean> {
        for (const account of this.stage.world.walletsOf(change.from, change)) {
          const { id, tenantId, currency, status, overdraftLimit, limits, sequence } = account
          const operation: RelocationOperation = {
            kind: 'wallet-arrive',
            wallet: {
              ...{ id, holderId: 'somebody', openedUs: 0, currency, status, limits, sequence },
              ...{ overdraftLimit: overdraftLimit ?? 0n, posted: account.creditsPosted - account.debitsPosted },
            },
            changeId: change.id,
            fromShard: change.from,
            departedUs: 0,
          }
          yield* this.ask(change.to, this.request(operation, { tenantId, slot: slotOfId(id) }))
        }
        return yield* super.depart(change, holds)
      }
    },
  },
  'to leave and to give up have different keys': {
    mover: class extends Mover {
      protected override request(...asked: Parameters<Mover['request']>): Request {
        const request = super.request(...asked)
        return request.operation.kind === 'map-abandon' ? { ...request, key: '§abandon' } : request
      }
    },
  },
  'who takes a change up gives it up without asking': {
    mover: class extends Mover {
      override *resume(change: MapChange): Work<boolean> {
        yield* this.openAll(change, false)
        return false
      }
    },
  },
  'clients get through while the slots leave': {
    post: (state, requests, context) => post(state, requests, seenBy(requests, context, 'departing')),
  },
  'clients get through while the slots are closed': {
    post: (state, requests, context) => post(state, requests, seenBy(requests, context, 'closed')),
  },
  'requests are decided wherever they come': {
    post: (state, requests, context) => {
      const { shard } = context
      if (!isClients(requests)) return post(state, requests, context)
      const ids = new Set(requests.map(({ id }) => id))
      return post(state, requests, { ...context, shardOf: (id) => (ids.has(id) ? shard : context.shardOf(id)) })
    },
  },
  'the numbers of entries begin anew': {
    post: (state, requests, context) =>
      post(
        state,
        requests.map((request) =>
          changed(request, (operation) =>
            operation.kind === 'wallet-arrive'
              ? { ...operation, wallet: { ...operation.wallet, sequence: 0 } }
              : operation,
          ),
        ),
        context,
      ),
  },
  'a debt is left behind': {
    post: (state, requests, context) =>
      post(
        state,
        requests.map((request) =>
          changed(request, (operation) => {
            if (operation.kind !== 'wallet-arrive' || operation.wallet.posted >= 0n) return operation
            return { ...operation, wallet: { ...operation.wallet, posted: 0n } }
          }),
        ),
        context,
      ),
  },
  'a frozen wallet arrives thawed': {
    post: (state, requests, context) =>
      post(
        state,
        requests.map((request) =>
          changed(request, (operation) =>
            operation.kind === 'wallet-arrive'
              ? { ...operation, wallet: { ...operation.wallet, status: 'active' } }
              : operation,
          ),
        ),
        context,
      ),
  },
  'a wallet that arrives twice arrives twice': {
    mover: class extends Mover {
      protected override request(...asked: Parameters<Mover['request']>): Request {
        const request = super.request(...asked)
        return request.operation.kind === 'wallet-arrive'
          ? { ...request, key: `${request.key} ${request.id}` }
          : request
      }
    },
  },
  'a hold that moves twice moves twice': {
    mover: class extends Mover {
      protected override request(...asked: Parameters<Mover['request']>): Request {
        const request = super.request(...asked)
        return request.operation.kind === 'hold-move' ? { ...request, key: `${request.key} ${request.id}` } : request
      }
    },
  },
  'what was recorded stays behind': {
    mover: class extends Mover {
      protected override *copy(): Work<void> {
        yield
      }
    },
  },
  'what was recorded is copied before the slots are closed': {
    mover: class extends Mover {
      protected override *close(change: MapChange): Work<void> {
        yield* super.copy(change)
        yield* super.close(change)
      }
      protected override *copy(): Work<void> {
        yield
      }
    },
  },
  'a change is closed whatever the map is': {
    post: (state, requests, context) =>
      post(
        state,
        requests,
        requests.some(({ operation: { kind } }) => kind === 'map-close') && context.map
          ? { ...context, map: { ...context.map, epoch: closed(requests) - 1 } }
          : context,
      ),
  },
}

function closed([request]: readonly Request[]): number {
  return request?.operation.kind === 'map-close' ? request.operation.change.epoch : 0
}

/** A request that is not what its payload says. */
function changed(request: Request, change: (operation: RelocationOperation) => RelocationOperation): Request {
  const { id, tenantId, key, operation } = request
  return isRelocation(operation) ? requestOf(id, tenantId, key, change(operation)) : request
}

/** A shard that does not see some changes when clients ask. */
function seenBy(requests: readonly Request[], context: PostingContext, hidden: OpenChange['phase']): PostingContext {
  return isClients(requests) && context.open?.phase === hidden ? { ...context, open: undefined } : context
}

function isClients(requests: readonly Request[]): boolean {
  return requests.every(({ operation }) => !('saga' in operation) && !isRelocation(operation))
}
