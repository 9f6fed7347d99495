import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import Type from 'typebox'
import { ZerosumError } from '../../errors.ts'
import type { Router } from '../../shards/router.ts'
import { Problems } from '../schemas.ts'

const READY_MS_MAX = 2_000
const StatusBody = Type.Object({ status: Type.String() })

/** Is the process alive; can it post. No key needed. */
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
          summary: 'Every shard answers',
          security: [],
          response: { 200: StatusBody, ...Problems },
        },
      },
      async () => {
        await Promise.all(router.shards.map(({ number, reader }) => answers(number, reader.ping())))
        return { status: 'ready' }
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
