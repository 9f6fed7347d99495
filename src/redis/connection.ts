import { TLS_VERSION_MIN, type Tls } from '../tls/files.ts'

const CONNECT_MS_MAX = 2_000
/** A connection on which nothing moves for so long is given up; the pings keep an idle one going. */
export const SILENCE_MS_MAX = 5_000
const PING_MS = 2_000
const RECONNECT_MS = 50
const RECONNECT_MS_MAX = 3_000

/** Where a Redis is. */
export type RedisServer = {
  /** `redis://user:password@host:port/database`; `rediss://` is TLS: the server's certificate is checked, chain and name. */
  url: string
  /** The CA to trust instead of those that come with Node, a certificate of our own. Only for `rediss://`. */
  tls?: Tls | undefined
}

/** This Redis can't be used. */
export class RedisRefused extends Error {}

/** What is asked of a connection. */
export type RedisConnection = RedisServer & {
  /** As Redis lists it. */
  name: string
  commandsMax: number
}

/**
 * How a connection to Redis behaves, for `createClient`: it comes back by itself, with growing pauses; nothing waits for it meanwhile.
 * @param commandsMax that wait to be sent, or for their answers; beyond, they are refused
 */
export function connectionOptions({ url, tls, name, commandsMax }: RedisConnection) {
  const socket = {
    connectTimeout: CONNECT_MS_MAX,
    socketTimeout: SILENCE_MS_MAX,
    reconnectStrategy: (retries: number) =>
      Math.min(RECONNECT_MS_MAX, RECONNECT_MS * 2 ** retries) * (0.5 + Math.random() / 2),
  }
  const isTls = new URL(url).protocol === 'rediss:'
  return {
    ...{ url, name, disableOfflineQueue: true, commandsQueueMaxLength: commandsMax },
    // The client's own limit only covers the time until a command is sent.
    commandOptions: { timeout: 0 },
    maintNotifications: 'disabled' as const,
    pingInterval: PING_MS,
    socket: isTls
      ? { ...socket, ...tls, tls: true as const, minVersion: TLS_VERSION_MIN, rejectUnauthorized: true }
      : socket,
  }
}

type Events = {
  on(event: 'error', listener: (error: Error) => void): unknown
  on(event: 'ready', listener: () => void): unknown
}

/** Tells of trouble once, until the connection has been there again. Without a listener, errors would end the process. */
export function tellTrouble(client: Events, onTrouble: (error: Error) => void): void {
  let isTroubled = false
  client.on('error', (error) => {
    if (!isTroubled) onTrouble(error)
    isTroubled = true
  })
  client.on('ready', () => {
    isTroubled = false
  })
}
