import { hostname } from 'node:os'

/** All that can be set from outside; see README, "Settings". */
export type Config = {
  readonly host: string
  readonly port: number
  /** Connection strings of the shards, by their numbers; empty means an embedded PostgreSQL. */
  readonly shardUrls: readonly string[]
  readonly dataDir: string
  /** The key of the demo tenant, if it was chosen. */
  readonly demoKey: string | undefined
  /** Names this node in the blocks that it writes. */
  readonly writer: string
}

/** What is wrong with the environment, all of it at once. */
export class ConfigError extends Error {}

/**
 * Reads the settings. The only reader of `process.env`.
 * @throws ConfigError with one line for each mistake
 */
export function readConfig(env: NodeJS.ProcessEnv = process.env): Config {
  const mistakes: string[] = []
  const port = Number(env['PORT'] ?? 3000)
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    mistakes.push(`PORT is "${env['PORT']}": give a number from 0 to 65535`)
  }
  const shardUrls = (env['ZEROSUM_SHARDS'] ?? '').split(',').map((url) => url.trim())
  const isEmbedded = shardUrls.length === 1 && shardUrls[0] === ''
  if (!isEmbedded) {
    for (const [i, url] of shardUrls.entries()) {
      // The URL itself is not shown: it may hold a password.
      if (!isPostgresUrl(url)) mistakes.push(`ZEROSUM_SHARDS, item ${i + 1} is not a postgres://user@host/database URL`)
    }
  }
  const demoKey = env['ZEROSUM_DEMO_KEY'] || undefined
  if (demoKey !== undefined && !/^zs_(test|live)_[A-Za-z0-9]{16,64}$/.test(demoKey)) {
    mistakes.push('ZEROSUM_DEMO_KEY must be zs_test_ followed by 16 to 64 letters and digits')
  }
  if (mistakes.length > 0) throw new ConfigError(`the settings are wrong:\n- ${mistakes.join('\n- ')}`)
  return {
    host: env['HOST'] || '127.0.0.1',
    port,
    shardUrls: isEmbedded ? [] : shardUrls,
    dataDir: env['ZEROSUM_DATA_DIR'] || './.zerosum',
    demoKey,
    writer: `${hostname()}:${process.pid}`,
  }
}

function isPostgresUrl(text: string): boolean {
  return URL.canParse(text) && /^postgres(ql)?:$/.test(new URL(text).protocol)
}
