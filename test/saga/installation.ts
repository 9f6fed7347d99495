import { expect } from 'vitest'
import { newKey } from '../../src/tenants/directory.ts'
import { startCommand } from '../support/node.ts'
import { expectSettledBooks, moneyIn, untilExpired, untilOver } from './books.ts'
import { Keeper } from './keeper.ts'
import { listOf, type ShardServer, startShardServer, startShardServers } from './servers.ts'
import { Traffic } from './traffic.ts'

/** Sagas that wait are given up after 20 s; that, and what it takes to notice, on a busy machine. */
const OVER_MS_MAX = 180_000

/** Servers, nodes and traffic; all real, all of their own. */
export type Installation = {
  readonly servers: readonly ShardServer[]
  readonly keepers: readonly Keeper[]
  readonly traffic: Traffic
  readonly demoKey: string
  /**
   * Adds a shard that has nothing yet: `zerosum shards add`, then the nodes are restarted with the longer list, one after the other.
   * @param beforeRestart what happens while the nodes know nothing of the new shard's database
   */
  grow(beforeRestart?: () => Promise<void>): Promise<void>
  /** Waits until no saga is in flight; ms. */
  untilOver(): Promise<number>
  /** Asks for everything once more and proves the books. Nobody else asks for anything meanwhile. */
  conclude(): Promise<void>
  close(): Promise<void>
}

/** Starts it, with so many funded wallets on each shard. */
export async function startInstallation(shards: number, nodes: number, wallets: number): Promise<Installation> {
  const servers = await startShardServers(shards)
  const demoKey = newKey()
  const keepers = Array.from({ length: nodes }, () => new Keeper({ databaseUrl: listOf(servers), demoKey }))
  const close = async () => {
    await Promise.all(keepers.map((keeper) => keeper.kill()))
    await Promise.all(servers.map((server) => server.close()))
  }
  const urls = () => servers.map(({ directUrl }) => directUrl())
  const over = () => untilOver(urls(), OVER_MS_MAX)
  try {
    await Promise.all(keepers.map((keeper) => keeper.start()))
    const traffic = new Traffic(keepers, demoKey, shards)
    await traffic.openWallets(wallets)
    const before = await moneyIn(urls())
    return {
      ...{ servers, keepers, traffic, demoKey, close, untilOver: over },
      async grow(beforeRestart) {
        const server = await startShardServer()
        const added = await startCommand(['shards', 'add', server.url], { databaseUrl: listOf(servers) }).ended
        servers.push(server)
        expect(added.code, added.output).toBe(0)
        await beforeRestart?.()
        for (const keeper of keepers) {
          keeper.databaseUrl = listOf(servers)
          expect(await keeper.stop()).toBe(0)
          await keeper.start()
        }
      },
      async conclude() {
        expect(traffic.hung).toEqual([])
        const { accepted, refused } = await traffic.settle()
        console.log(`in the end ${accepted.length} were accepted, and refused: ${JSON.stringify(refused)}`)
        // What had never arrived began only now; holds that are past their time are let go.
        await untilExpired(urls())
        await over()
        expect(accepted.length).toBeGreaterThan(0)
        await traffic.expectBalances(accepted)
        expect(await moneyIn(urls())).toEqual(before)
        await expectSettledBooks(urls())
        expect(await Promise.all(keepers.map((keeper) => keeper.stop()))).toEqual(keepers.map(() => 0))
      },
    }
  } catch (error) {
    await close()
    throw error
  }
}
