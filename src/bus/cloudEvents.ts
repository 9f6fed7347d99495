import type { LedgerEvent, Topic } from './events.ts'

/**
 * The ledger's events as Kafka messages: CloudEvents 1.0, binary content mode (CloudEvents Kafka protocol binding 1.0.2, section 3.2). The
 * attributes are headers with the prefix `ce_`, the data is the value.
 */

const CONTENT_TYPE = 'application/json; charset=utf-8'

export type EventMessage = {
  readonly topic: Topic
  readonly key: string
  readonly value: string
  readonly headers: Record<string, string>
  /** The time of the block, so that a time can be looked up; milliseconds since 1970. */
  readonly timestamp: bigint
}

export function messageOf(event: LedgerEvent): EventMessage {
  const { topic, key, id, source, type, time, subject, tenant, traceparent, data } = event
  return {
    ...{ topic, key, value: JSON.stringify(data), timestamp: BigInt(Date.parse(time)) },
    headers: {
      ...{ ce_specversion: '1.0', ce_id: id, ce_source: source, ce_type: type, ce_time: time, ce_subject: subject },
      ...{ ce_tenant: tenant, 'content-type': CONTENT_TYPE },
      ...(traceparent === undefined ? {} : { traceparent }),
    },
  }
}

/** Reads what `messageOf` wrote. @throws Error if the message is no event of the ledger's */
export function eventOf(message: {
  topic: string
  key: string
  value: string
  headers: ReadonlyMap<string, string>
}): LedgerEvent {
  const { topic, key, value, headers } = message
  const header = (name: string): string => {
    const found = headers.get(name)
    if (found === undefined) throw new Error(`a message of ${topic} lacks the header ${name}`)
    return found
  }
  const id = header('ce_id')
  const [shard, block, index] = id.split('.').map(Number)
  if (![shard, block, index].every(Number.isSafeInteger)) throw new Error(`"${id}" is not the id of an event`)
  const traceparent = headers.get('traceparent')
  return {
    ...{ topic: topic as Topic, key, id, source: header('ce_source'), type: header('ce_type') as LedgerEvent['type'] },
    place: { shard, block, index } as LedgerEvent['place'],
    ...{ time: header('ce_time'), subject: header('ce_subject'), tenant: header('ce_tenant') },
    ...(traceparent === undefined ? {} : { traceparent }),
    data: JSON.parse(value) as LedgerEvent['data'],
  }
}
