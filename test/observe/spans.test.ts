import { ROOT_CONTEXT, trace } from '@opentelemetry/api'
import { describe, expect, test } from 'vitest'
import { ConfigError, readConfig } from '../../src/config.ts'
import { contextOf, inSpans, isSampled } from '../../src/observe/spans.ts'

const [TRACE, SPAN] = ['0af7651916cd43dd8448eb211c80319c', 'b7ad6b7169203331']

describe('a traceparent', () => {
  test.each([
    ['sampled', `00-${TRACE}-${SPAN}-01`, 1],
    ['not sampled', `00-${TRACE}-${SPAN}-00`, 0],
    ['with flags that nobody knows yet', `00-${TRACE}-${SPAN}-ff`, 1],
    ['of a version to come, with more in it', `cc-${TRACE}-${SPAN}-01-what-else`, 1],
  ])('%s is read', (_name, text, traceFlags) => {
    expect(trace.getSpanContext(contextOf(text))).toMatchObject({
      ...{ traceId: TRACE, spanId: SPAN, traceFlags, isRemote: true },
    })
  })

  test.each([
    ['nothing', undefined],
    ['an empty one', ''],
    ['the forbidden version', `ff-${TRACE}-${SPAN}-01`],
    ['more than this version has', `00-${TRACE}-${SPAN}-01-more`],
    ['a trace of zeros', `00-${'0'.repeat(32)}-${SPAN}-01`],
    ['a span of zeros', `00-${TRACE}-${'0'.repeat(16)}-01`],
    ['capitals', `00-${TRACE.toUpperCase()}-${SPAN}-01`],
    ['a short one', `00-${TRACE}-${SPAN}`],
    ['what stands between others', `x00-${TRACE}-${SPAN}-01`],
  ])('%s is as none', (_name, text) => {
    expect(contextOf(text)).toBe(ROOT_CONTEXT)
  })
})

test('without tracing, what comes with a context goes on with the same, and nothing is sampled', async () => {
  const things = [{ traceparent: `00-${TRACE}-${SPAN}-01` }, {}, { traceparent: 'nonsense' }]
  await inSpans('work', {}, things, async (continued) => {
    expect(continued).toEqual(things)
    expect(isSampled()).toBe(false)
  })
  await expect(inSpans('work', {}, things, () => Promise.reject(new Error('no')))).rejects.toThrow('no')
})

describe('the settings of tracing', () => {
  const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4318' }
  test.each([
    ['nothing', {}, undefined],
    ['an endpoint', endpoint, { sampler: 'parentbased_always_on', ratio: 1 }],
    [
      'an endpoint for traces alone',
      { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'https://collector/v1/traces' },
      { sampler: 'parentbased_always_on', ratio: 1 },
    ],
    [
      'a ratio',
      { ...endpoint, OTEL_TRACES_SAMPLER: 'parentbased_traceidratio', OTEL_TRACES_SAMPLER_ARG: '0.01' },
      { sampler: 'parentbased_traceidratio', ratio: 0.01 },
    ],
    ['no exporter', { ...endpoint, OTEL_TRACES_EXPORTER: 'none' }, undefined],
    ['the SDK disabled', { ...endpoint, OTEL_SDK_DISABLED: 'TRUE' }, undefined],
  ])('with %s', (_name, env, expected) => {
    expect(readConfig(env).tracing).toEqual(expected)
  })

  test('that are wrong are all named', () => {
    const env = {
      ...{ OTEL_EXPORTER_OTLP_ENDPOINT: 'collector:4318', OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' },
      ...{ OTEL_TRACES_EXPORTER: 'zipkin', OTEL_TRACES_SAMPLER: 'jaeger', OTEL_TRACES_SAMPLER_ARG: '2' },
    }
    expect(() => readConfig(env)).toThrow(ConfigError)
    for (const name of [...Object.keys(env)]) expect(() => readConfig(env)).toThrow(name)
  })
})
