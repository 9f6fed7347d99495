import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Feed } from '../../src/live/feed.ts'
import { until } from '../cache/wait.ts'

/** Two nodes' feeds, and what makes news. */
export type FeedStage = {
  readonly here: Feed
  readonly there: Feed
  /** A wallet that exists. */
  wallet(): Promise<string>
  /** The node `there` posts a block that changes a wallet. */
  change(walletId: string): Promise<void>
  close(): Promise<void>
}

/** What every adapter of the port does. */
export function describeFeed(name: string, open: () => Promise<FeedStage>): void {
  describe(`the feed ${name}`, () => {
    let stage: FeedStage
    beforeAll(async () => {
      stage = await open()
    })
    afterAll(() => stage?.close())

    it('wakes those who wait for a wallet on the node that has changed it, and on others, again and again', async () => {
      const id = await stage.wallet()
      let [here, there] = [0, 0]
      const ends = [stage.here.watch(id, () => here++), stage.there.watch(id, () => there++)]
      for (let i = 0; i < 3; i++) {
        const before = [here, there]
        await stage.change(id)
        await until(() => here > (before[0] ?? 0) && there > (before[1] ?? 0))
      }
      for (const end of ends) end()
    })

    it('wakes each of several who wait for the same wallet, and not one who has left', async () => {
      const id = await stage.wallet()
      const counts = [0, 0, 0]
      const [, leave] = counts.map((_, i) => stage.here.watch(id, () => (counts[i] = (counts[i] ?? 0) + 1)))
      leave?.()
      counts[1] = 0
      await stage.change(id)
      await until(() => counts[0] !== 0 && counts[2] !== 0)
      expect(counts[1]).toBe(0)
    })

    it('says up to which entry there is news, once it is following, and to nobody else', async () => {
      const [id, other] = [await stage.wallet(), await stage.wallet()]
      const versions: number[] = []
      let others = 0
      const ends = [
        stage.here.watch(id, (version) => version !== undefined && versions.push(version)),
        stage.here.watch(other, (version) => version !== undefined && others++),
      ]
      await until(async () => {
        await stage.change(id)
        return versions.length > 0
      })
      for (const version of versions) expect(version).toBeGreaterThan(0)
      expect(others).toBe(0)
      for (const end of ends) end()
    })

    it('takes news of what nobody waits for, and a great deal of it', () => {
      const news = Array.from({ length: 2_000 }, (_, version) => ({ walletId: randomUUID(), version }))
      expect(() => stage.here.tell(news)).not.toThrow()
    })
  })
}
