import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import Type from 'typebox'
import { ZerosumError } from '../../errors.ts'
import { ReadsSaturated } from '../../guard/readGuard.ts'
import type { Router } from '../../shards/router.ts'
import { Problems } from '../schemas.ts'

const READY_MS_MAX = 2_000
const StatusBody = Type.Object({ status: Type.String() })
const ReadyBody = Type.Object({
  status: Type.String(),
  silentShards: Type.Optional(Type.Array(Type.Integer(), { description: 'Those that do not answer, if some do.' })),
})

/**
 * Is the process alive; can it post, be it on some shards only. No key needed.
 * @param stopping aborted when the node is about to stop
 */
export function healthRoutes(router: Router, stopping?: AbortSignal): FastifyPluginAsyncTypebox {
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
          response: { 200: ReadyBody, ...Problems },
        },
      },
      async () => {
        if (stopping?.aborted) throw new ZerosumError('stopping')
        // A node that is taken out because one shard is down can't serve the others either.
        const { shards } = router
        const isThere = await Promise.all(shards.map(({ reader }) => answers(reader.ping())))
        const silentShards = shards.flatMap(({ number }, i) => (isThere[i] ? [] : [number]))
        if (silentShards.length === 0) return { status: 'ready' }
        if (silentShards.length < shards.length) return { status: 'degraded', silentShards }
        throw new ZerosumError('ledger_unavailable', `No shard answers: ${silentShards.join(', ')}.`)
      },
    )
  }
}

/** False if it fails or takes too long. A shard that is asked so much that this must wait is there: balancers must not take the node out for that. */
async function answers(ping: Promise<void>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((done) => {
    timer = setTimeout(() => done(false), READY_MS_MAX)
  })
  const answered = ping.then(
    () => true,
    (error: unknown) => error instanceof ReadsSaturated,
  )
  return await Promise.race([answered, late]).finally(() => clearTimeout(timer))
}
