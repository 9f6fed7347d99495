import { isIP } from 'node:net'
import { type Connection, type ConnectionOptions, instancesChannel } from '@platformatic/kafka'
import { TLS_VERSION_MIN, type Tls } from '../tls/files.ts'
import type { SaslMechanism } from './saslMechanisms.ts'

/** How connections to brokers are made: without `tls` in plain text, without `sasl` as nobody. */
export type KafkaSecurity = {
  readonly tls?: Tls
  readonly sasl?: { readonly mechanism: SaslMechanism; readonly username: string; readonly password: string }
}

/** The same in the client's words, for every client that is made. Brokers must have certificates for the names they are called by. */
export function securityOptions(
  { tls, sasl }: KafkaSecurity,
  brokers: readonly string[],
): Pick<ConnectionOptions, 'tls' | 'tlsServerName' | 'sasl'> {
  // A name is said to the server, an address must not be (RFC 6066).
  const hasNames = brokers.every((broker) => isIP(broker.replace(/:\d+$/, '').replace(/^\[|\]$/g, '')) === 0)
  return {
    ...(tls && { tls: { ...tls, minVersion: TLS_VERSION_MIN, rejectUnauthorized: true }, tlsServerName: hasNames }),
    ...(sasl && { sasl: { ...sasl } }),
  }
}

// A connection that breaks while it logs in says so twice (@platformatic/kafka 2.12.1), and the second time nobody listens: that would end
// the process. Whoever waits for the connection is told the first time.
instancesChannel.subscribe((message) => {
  const { type, instance } = message as { type: string; instance: Connection }
  if (type === 'connection') instance.on('error', () => {})
})
