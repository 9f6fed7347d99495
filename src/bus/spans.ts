import { SpanKind } from '@opentelemetry/api'
import { inSpans } from '../observe/spans.ts'
import type { LedgerEvent } from './events.ts'

/** Has a consumer group handle events: a span in the trace of each request behind them. */
export function inGroup(
  name: string,
  events: readonly LedgerEvent[],
  handle: (events: readonly LedgerEvent[]) => Promise<void>,
): Promise<void> {
  const attributes = { 'messaging.operation.type': 'process', 'messaging.consumer.group.name': name }
  return inSpans(`process ${name}`, { kind: SpanKind.CONSUMER, attributes }, events, handle)
}
