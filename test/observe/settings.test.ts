import { expect, it } from 'vitest'
import { readConfig } from '../../src/config.ts'

it('a node on databases of its own logs for people, one on chosen databases for machines', () => {
  expect(readConfig({}).log).toEqual({ form: 'pretty', level: 'info' })
  expect(readConfig({ ZEROSUM_SHARDS: 'postgres://a/0' }).log).toEqual({ form: 'json', level: 'info' })
  const chosen = { ZEROSUM_SHARDS: 'postgres://a/0', ZEROSUM_LOG: 'pretty', ZEROSUM_LOG_LEVEL: 'warn' }
  expect(readConfig(chosen).log).toEqual({ form: 'pretty', level: 'warn' })
})

it('says all that is wrong with the settings of the log', () => {
  expect(() => readConfig({ ZEROSUM_LOG: 'xml', ZEROSUM_LOG_LEVEL: 'loud' })).toThrow(
    /ZEROSUM_LOG is "xml": say pretty, json, silent\n- ZEROSUM_LOG_LEVEL is "loud": say debug, info, warn, error$/,
  )
})
