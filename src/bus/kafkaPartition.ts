import { compatibilityPartitioner } from '@platformatic/kafka'

/** The partition of a key in a topic with so many: the murmur2 of Kafka's own clients, by which events are published. */
export function partitionOf(key: string, partitions: number): number {
  return compatibilityPartitioner({ topic: '' }, Buffer.from(key)) % partitions
}
