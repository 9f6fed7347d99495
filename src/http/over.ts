import type { FastifyReply } from 'fastify'

/** Calls back once, when an answer is over: sent, or broken off. At once if whoever asked is gone already: then nothing would tell any more. */
export function whenOver({ raw }: Pick<FastifyReply, 'raw'>, over: () => void): void {
  if (raw.destroyed || raw.req.socket.destroyed) over()
  else raw.once('close', over)
}
