/** The mechanisms by which this program logs in to Kafka. In a file of its own: who reads settings needs no Kafka client. */
export const SASL_MECHANISMS = ['SCRAM-SHA-512', 'SCRAM-SHA-256', 'PLAIN'] as const
export type SaslMechanism = (typeof SASL_MECHANISMS)[number]
