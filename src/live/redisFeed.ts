import { createClient } from '@redis/client'
import { connectionOptions, tellTrouble } from '../redis/connection.ts'
import type { Tls } from '../tls/files.ts'
import type { Feed, News } from './feed.ts'
import { createWatchers } from './watchers.ts'

export type RedisFeedOptions = {
  /** `redis://user:password@host:port/database`, or `rediss://` with TLS. */
  url: string
  /** For `rediss://`. */
  tls?: Tls | undefined
  /** Installations that share a Redis need different ones (redis/installation.ts); a database of its own is not enough, channels have none. */
  channel?: string
  /** Told when a connection breaks or can't be made: once, until it has been there again. */
  onTrouble?: (error: unknown) => void
}

/** Wallets in a message. A block may have changed thousands. */
const NEWS_MAX = 500
/** What is longer was not written by a node: an id, a colon, a number and a space for each wallet. */
const MESSAGE_LENGTH_MAX = NEWS_MAX * 64
/** Messages that wait to be sent, or for their answers. Beyond, they are dropped. */
const MESSAGES_MAX = 200

/**
 * Publishes and subscribes in Redis 7 or newer: what one node posts, all hear of. Two connections, which come back by themselves. Redis forgets
 * what it publishes at once; so when the subscription has been away, all who wait are woken. What could not be published is not kept: those
 * who wait look by themselves now and then.
 */
export function createRedisFeed(options: RedisFeedOptions): Feed {
  const { url, tls, channel = 'zerosum:news', onTrouble = () => {} } = options
  const watchers = createWatchers()
  const publisher = open('zerosum-news')
  const subscriber = open('zerosum-news-subscriber')
  let isSubscribed = false

  const onMessage = (message: string) => watchers.wake(decode(message))
  // The client subscribes again by itself when it has connected again, but not if the first try failed half-way.
  subscriber.on('ready', () => {
    if (isSubscribed) return watchers.wakeAll()
    subscriber.subscribe(channel, onMessage).then(() => {
      isSubscribed = true
      watchers.wakeAll()
    }, onTrouble)
  })
  // They go on trying until they are destroyed, and that is when this fails.
  for (const client of [publisher, subscriber]) client.connect().catch(() => {})

  function open(name: string) {
    const client = createClient(connectionOptions({ url, tls, name, commandsMax: MESSAGES_MAX }))
    tellTrouble(client, onTrouble)
    return client
  }

  return {
    watch: watchers.add,
    tell(news) {
      watchers.wake(news)
      if (!publisher.isReady) return
      for (let start = 0; start < news.length; start += NEWS_MAX) {
        // Its trouble is told by the connection's own event.
        publisher.publish(channel, encode(news.slice(start, start + NEWS_MAX))).catch(() => {})
      }
    },
    async close() {
      watchers.clear()
      for (const client of [publisher, subscriber]) client.destroy()
    },
  }
}

function encode(news: readonly News[]): string {
  return news.map(({ walletId, version }) => `${walletId}:${version}`).join(' ')
}

/** What is not as `encode` writes it is nobody's news. */
function decode(message: string): News[] {
  if (message.length > MESSAGE_LENGTH_MAX) return []
  return message.split(' ').flatMap((text) => {
    const [, walletId, version] = /^([0-9a-f-]{36}):(\d{1,15})$/.exec(text) ?? []
    return walletId === undefined ? [] : [{ walletId, version: Number(version) }]
  })
}
