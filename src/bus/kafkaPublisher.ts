import { messageOf } from './cloudEvents.ts'
import type { KafkaSecurity } from './kafkaSecurity.ts'
import { createKafkaSender } from './kafkaSender.ts'
import type { Publisher } from './relay.ts'

/**
 * Sends events to Kafka, one send after the other, so that no later one can overtake an earlier one.
 * @param ready resolves when the topics are there
 */
export function createKafkaPublisher(
  { brokers, security }: { brokers: readonly string[]; security: KafkaSecurity },
  ready: () => Promise<void>,
): Publisher {
  const sender = createKafkaSender({ brokers, security, clientId: 'zerosum-relay', ready })
  return {
    publish: (events, signal) => sender.send(events.map(messageOf), signal),
    close: () => sender.close(),
  }
}
