import { describe, expect, onTestFinished, test } from 'vitest'
import { ConfigError, readConfig } from '../src/config.ts'
import { createAuthority, writeFiles } from './support/authority.ts'

const authority = createAuthority()
const one = authority.issue({ commonName: 'one' })
const two = authority.issue({ commonName: 'two' })

const filesOf = <Name extends string>(files: Record<Name, string>) => writeFiles(files, onTestFinished)

/** What is wrong, a line each. */
function mistakesOf(env: Record<string, string>): string[] {
  try {
    readConfig(env)
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError)
    return (error as Error).message.split('\n- ').slice(1)
  }
  return []
}

describe('secrets', () => {
  test('come from the environment, or from a file that it names', async () => {
    const files = await filesOf({
      shards: 'postgres://a:b@db0/x,postgres://a:b@db1/x\n',
      redis: 'redis://:secret@cache:6379\n',
      demo: 'zs_test_0123456789abcdef\n',
      sasl: 'correct-horse\n',
    })
    const config = readConfig({
      ZEROSUM_SHARDS_FILE: files.shards,
      REDIS_URL_FILE: files.redis,
      ZEROSUM_DEMO_KEY_FILE: files.demo,
      KAFKA_SASL_PASSWORD_FILE: files.sasl,
      KAFKA_SASL_USERNAME: 'zerosum',
    })
    expect(config).toMatchObject({
      shardUrls: ['postgres://a:b@db0/x', 'postgres://a:b@db1/x'],
      redis: { url: 'redis://:secret@cache:6379' },
      demoKey: 'zs_test_0123456789abcdef',
      kafkaSecurity: { sasl: { mechanism: 'SCRAM-SHA-512', username: 'zerosum', password: 'correct-horse' } },
    })
  })

  test.each(['ZEROSUM_SHARDS', 'REDIS_URL', 'ZEROSUM_DEMO_KEY', 'KAFKA_SASL_PASSWORD'])(
    'given twice are a mistake, a file that is not there or is empty is one: %s',
    async (name) => {
      const { empty, full } = await filesOf({ empty: ' \n', full: 'secret' })
      const [file, value] = [`${name}_FILE`, name === 'ZEROSUM_SHARDS' ? 'postgres://u:secret@h/d' : 'secret']
      expect(mistakesOf({ [name]: value, [file]: full })).toContain(`${name} and ${file} are both set: keep one`)
      expect(mistakesOf({ [file]: '/nowhere/secret' })).toContain(`${file}: /nowhere/secret cannot be read (ENOENT)`)
      expect(mistakesOf({ [file]: empty })).toContain(`${file}: ${empty} is empty`)
    },
  )

  test('are not shown when they are wrong', () => {
    const wrong = { ZEROSUM_SHARDS: 'mysql://u:secret@h/d', REDIS_URL: 'http://:secret@h', ZEROSUM_DEMO_KEY: 'secret!' }
    const mistakes = mistakesOf(wrong)
    expect(mistakes).toHaveLength(3)
    expect(mistakes.join()).not.toContain('secret')
  })
})

describe('TLS', () => {
  test('is off unless it is asked for', () => {
    expect(readConfig({})).toMatchObject({
      ...{ tlsFiles: undefined, probePort: undefined, redis: undefined, kafkaSecurity: {} },
      ...{ connectionsMax: 10_000, connectionsPerAddressMax: undefined },
    })
  })

  test('of the API is a certificate with its key, and a CA of clients', async () => {
    const { cert, key, ca } = await filesOf({ ...one, ca: authority.cert })
    const env = { ZEROSUM_TLS_CERT: cert, ZEROSUM_TLS_KEY: key, ZEROSUM_PROBE_PORT: '9090' }
    expect(readConfig(env)).toMatchObject({ tlsFiles: { cert, key }, probePort: 9090 })
    expect(readConfig({ ...env, ZEROSUM_TLS_CLIENT_CA: ca }).tlsFiles).toEqual({ cert, key, ca })
  })

  test('of the API with half of it is a mistake', async () => {
    const { cert, key, other, ca } = await filesOf({ ...one, other: two.key, ca: authority.cert })
    for (const env of [{ ZEROSUM_TLS_CERT: cert }, { ZEROSUM_TLS_KEY: key }, { ZEROSUM_TLS_CLIENT_CA: ca }]) {
      expect(mistakesOf(env)).toEqual([expect.stringMatching(/set together/)])
    }
    const pair = { ZEROSUM_TLS_CERT: cert, ZEROSUM_TLS_KEY: key }
    const wrong: [Record<string, string>, RegExp][] = [
      [{ ...pair, ZEROSUM_TLS_KEY: other }, /is not the key of/],
      [{ ...pair, ZEROSUM_TLS_KEY: cert }, /is not the key of/],
      [{ ...pair, ZEROSUM_TLS_CERT: key }, /holds no certificate/],
      [{ ...pair, ZEROSUM_TLS_CERT: '/nowhere' }, /\/nowhere cannot be read \(ENOENT\)/],
      [{ ...pair, ZEROSUM_TLS_CLIENT_CA: key }, /holds no certificate/],
      [{ ...pair, ZEROSUM_TLS_CLIENT_CA: '/' }, /cannot be read \(EISDIR\)/],
    ]
    for (const [env, reason] of wrong) {
      const mistakes = mistakesOf(env)
      expect(mistakes).toEqual([expect.stringMatching(reason)])
      expect(mistakes.join()).not.toContain('PRIVATE')
    }
    expect(mistakesOf({ ZEROSUM_PROBE_PORT: '9090' })).toEqual([expect.stringMatching(/ZEROSUM_PROBE_PORT/)])
  })

  test('to Redis needs a rediss:// URL', async () => {
    const { ca, cert, key } = await filesOf({ ca: authority.cert, ...one })
    const env = { REDIS_TLS_CA: ca, REDIS_TLS_CERT: cert, REDIS_TLS_KEY: key }
    expect(readConfig({ REDIS_URL: 'rediss://h', ...env }).redis).toEqual({
      url: 'rediss://h',
      tls: { ca: authority.cert, ...one },
    })
    expect(mistakesOf({ REDIS_URL: 'redis://h', ...env })).toEqual([expect.stringMatching(/rediss/)])
    expect(mistakesOf({ REDIS_URL: 'rediss://h', REDIS_TLS_CERT: cert })).toEqual([expect.stringMatching(/together/)])
  })

  test('to Kafka is on with a CA, which may be those that Node knows', async () => {
    const { ca, cert, key } = await filesOf({ ca: authority.cert, ...one })
    expect(readConfig({ KAFKA_TLS_CA: ca }).kafkaSecurity).toEqual({ tls: { ca: authority.cert } })
    expect(readConfig({ KAFKA_TLS_CA: 'system' }).kafkaSecurity).toEqual({ tls: {} })
    expect(mistakesOf({ KAFKA_TLS_CERT: cert, KAFKA_TLS_KEY: key })).toEqual([expect.stringMatching(/KAFKA_TLS_CA/)])
    expect(readConfig({ KAFKA_TLS_CA: 'system', KAFKA_TLS_CERT: cert, KAFKA_TLS_KEY: key }).kafkaSecurity).toEqual({
      tls: one,
    })
  })

  test.each<[Record<string, string>, RegExp]>([
    [{ KAFKA_SASL_USERNAME: 'u' }, /set together/],
    [{ KAFKA_SASL_PASSWORD: 'secret' }, /set together/],
    [{ KAFKA_SASL_USERNAME: 'u', KAFKA_SASL_PASSWORD: 'secret', KAFKA_SASL_MECHANISM: 'GSSAPI' }, /say one of/],
    [{ KAFKA_SASL_USERNAME: 'u', KAFKA_SASL_PASSWORD: 'secret', KAFKA_SASL_MECHANISM: 'PLAIN' }, /sent as it is/],
    [{ ZEROSUM_SHARDS: 'postgres://u:secret@h/d?sslmode=prefer' }, /item 1: sslmode=prefer/],
    [{ ZEROSUM_CONNECTIONS_MAX: '0' }, /ZEROSUM_CONNECTIONS_MAX is "0"/],
    [{ ZEROSUM_CONNECTIONS_PER_ADDRESS_MAX: 'many' }, /ZEROSUM_CONNECTIONS_PER_ADDRESS_MAX is "many"/],
  ])('and log-in that are half right are mistakes: %j', (env, reason) => {
    const mistakes = mistakesOf(env)
    expect(mistakes).toEqual([expect.stringMatching(reason)])
    expect(mistakes.join()).not.toContain('secret')
  })

  test('mistakes are listed together, with all others', () => {
    const env = { PORT: 'x', ZEROSUM_TLS_CERT: '/a', KAFKA_SASL_USERNAME: 'u', REDIS_URL: 'x', REDIS_URL_FILE: '/b' }
    expect(mistakesOf(env)).toHaveLength(5)
  })
})

test('every mistake in the settings is told at once, by its name, without what may be secret', () => {
  const wrong = {
    PORT: '70000',
    ZEROSUM_SHARDS: 'mysql://u:secret@a/0',
    KAFKA_BROKERS: 'here',
    KAFKA_PARTITIONS: 'many',
    ZEROSUM_CONSUMERS: 'cache,coffee,tea',
    REDIS_URL: 'http://u:secret@a',
    ZEROSUM_DEMO_KEY: 'secret',
    ZEROSUM_WEBHOOKS_ALLOW_PRIVATE: 'maybe',
    ZEROSUM_TENANT_RATE: '0',
    ZEROSUM_AGE_MS_MAX: '9',
    ZEROSUM_CONNECTIONS_MAX: '1.5',
    ZEROSUM_CONNECTIONS_PER_ADDRESS_MAX: '0',
    ZEROSUM_DRAIN_MS: '-1',
    ZEROSUM_START_WAIT_MS: 'long',
    OTEL_SDK_DISABLED: 'maybe',
    OTEL_TRACES_SAMPLER_ARG: ' ',
    OTEL_EXPORTER_OTLP_ENDPOINT: 'collector',
    OTEL_EXPORTER_OTLP_TIMEOUT: 'abc',
    OTEL_EXPORTER_OTLP_COMPRESSION: 'brotli',
    OTEL_EXPORTER_OTLP_HEADERS: 'x-key=secret,garbage',
    OTEL_EXPORTER_OTLP_CERTIFICATE: '/nope',
    OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY: '/nope',
  }
  const error = new ConfigError(mistakesOf(wrong))
  for (const name of Object.keys(wrong)) {
    expect(error.mistakes.filter((mistake) => mistake.startsWith(name)).length, name).toBe(
      name === 'ZEROSUM_CONSUMERS' ? 2 : 1,
    )
  }
  expect(error.message).not.toContain('secret')
})

test.each(['PORT', 'ZEROSUM_DRAIN_MS', 'KAFKA_PARTITIONS', 'KAFKA_BROKERS', 'ZEROSUM_CONSUMERS'])(
  '%s that is set to nothing but blanks and commas is a mistake',
  (name) => {
    expect(mistakesOf({ [name]: ' ' })).toEqual([expect.stringMatching(`^${name} is " "`)])
    expect(mistakesOf({ [name]: ' , ' })).toEqual([expect.stringMatching(`^${name} is " , "`)])
    expect(mistakesOf({ [name]: '0x10' })).toHaveLength(1)
  },
)

test('settings that are empty are not set', () => {
  const empty = readConfig({ PORT: '', ZEROSUM_DRAIN_MS: '', ZEROSUM_START_WAIT_MS: '', ZEROSUM_SHARDS: '' })
  expect(empty).toEqual({ ...readConfig({}), writer: empty.writer })
  expect(readConfig({ ZEROSUM_DRAIN_MS: '0' }).drainMs).toBe(0)
})

test('every run of a node has a name of its own in the blocks that it writes', () => {
  const [one, other] = [readConfig({}).writer, readConfig({}).writer]
  expect(one).not.toBe(other)
  expect(one).toMatch(new RegExp(`^.{1,64}:${process.pid}:[0-9a-f]{8}$`))
})
