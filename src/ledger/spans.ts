import { context, ROOT_CONTEXT, type Span, trace } from '@opentelemetry/api'
import { formatId } from '../core/ids.ts'
import type { Request } from '../core/request.ts'
import { fail, isSampled, startSpan, traceparentOf, within } from '../observe/spans.ts'
import { RequestUndecided, type Result } from './poster.ts'

/** A traced request on its way into a block: from when it is queued to its answer, and within that the wait for its turn. */
export type PostSpans = { readonly post: Span; readonly queue: Span }

/** Begins the spans of a request, if what asks for it is traced; the request then carries their context to the readers of its block. */
export function beginPost(request: Request, shard: number | undefined): { request: Request; spans?: PostSpans } {
  if (!isSampled()) return { request }
  const { id, tenantId, operation } = request
  const post = startSpan(`post ${operation.kind}`, {
    attributes: {
      ...{ 'zerosum.tenant.id': formatId('ten', tenantId), 'zerosum.request.kind': operation.kind },
      ...(shard === undefined ? {} : { 'zerosum.shard': shard }),
      // The id of a request that opens a wallet is the wallet's.
      ...(operation.kind === 'wallet-open' ? {} : { 'zerosum.transaction.id': formatId('txn', id) }),
    },
  })
  const queue = startSpan('queue', {}, trace.setSpan(context.active(), post))
  return { request: { ...request, traceparent: traceparentOf(post) }, spans: { post, queue } }
}

/**
 * Posts a batch. It is a span of the first trace that has a request in it; the others' requests and that span link to each other.
 */
export function inBlock<T>(batch: readonly PostSpans[], work: () => Promise<T>): Promise<T> {
  for (const { queue } of batch) queue.end()
  const [first, ...others] = batch.map(({ post }) => post)
  // Whatever was active is another request's, of a batch before.
  if (!first) return context.with(ROOT_CONTEXT, work)
  const links = others.map((post) => ({ context: post.spanContext() }))
  const block = startSpan('block', { links }, trace.setSpan(ROOT_CONTEXT, first))
  for (const post of others) post.addLink({ context: block.spanContext() })
  return within(block, work, ROOT_CONTEXT)
}

/** Ends a request's span, saying what became of it. */
export function endPost({ post }: PostSpans, result: Result | undefined): void {
  if (result instanceof RequestUndecided) post.setAttribute('zerosum.outcome', result.why)
  else if (result === undefined || result instanceof Error) fail(post, result)
  else {
    const { status, record } = result
    post.setAttribute('zerosum.outcome', status)
    if (record.refusal !== null) post.setAttribute('zerosum.refusal', record.refusal)
  }
  post.end()
}
