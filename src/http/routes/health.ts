import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import Type from 'typebox'
import { ZerosumError } from '../../errors.ts'
import type { Router } from '../../shards/router.ts'
import { Problems } from '../schemas.ts'

const READY_MS_MAX = 2_000
const StatusBody = Type.Object({ status: Type.String() })

/** Is the process alive; can it post, be it on some shards only. No key needed. */
export function healthRoutes(router: Router): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.get(
      '/livez',
      { schema: { tags: ['operations'], summary: 'The process runs', security: [], response: { 200: StatusBody } } },
      async () => ({ status: 'alive' }),
    )

    app.get(
      '/readyz',
      {
        schema: {
          tags: ['operations'],
          summary: 'A shard answers; the status is degraded if not all do',
          security: [],
          response: { 200: StatusBody, ...Problems },
        },
      },
      async () => {
        // A node that is taken out because one shard is down can't serve the others either.
        const pings = await Promise.allSettled(
          router.shards.map(({ number, reader }) => answers(number, reader.ping())),
        )
        const silent = pings.filter(({ status }) => status === 'rejected')
        const [first] = silent
        if (first?.status === 'rejected' && silent.length === pings.length) throw first.reason
        return { status: silent.length > 0 ? 'degraded' : 'ready' }
      },
    )
  }
}

/** @throws ledger_unavailable if it fails or takes too long */
async function answers(shard: number, ping: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('no answer in time')), READY_MS_MAX)
  })
  try {
    await Promise.race([ping, late])
  } catch {
    throw new ZerosumError('ledger_unavailable', `Shard ${shard} does not answer.`)
  } finally {
    clearTimeout(timer)
  }
}
