import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { readConfig } from '../../src/config.ts'

type Service = {
  image?: string
  build?: { context: string; dockerfile: string }
  environment?: Record<string, string | number>
  ports?: string[]
  volumes?: string[]
  depends_on?: Record<string, { condition: string }>
  healthcheck?: { test: string[] }
}

const FOLDER = new URL('../../deploy/', import.meta.url)
const compose: { services: Record<string, Service>; volumes: Record<string, null> } = parse(read('compose.yaml'), {
  merge: true,
})
const services = Object.entries(compose.services)
/** The images that have no program which could look from inside. */
const WITHOUT_SHELL = ['otel-collector']

test('the installation has two shards, cache, bus, a node, and what watches them', () => {
  expect(Object.keys(compose.services).sort()).toEqual(
    ['grafana', 'kafka', 'otel-collector', 'prometheus', 'redis', 'shard-0', 'shard-1', 'zerosum'].sort(),
  )
})

test.each(services)('%s is pinned to a version', (_, { image, build }) => {
  if (build) {
    const [, base] = /^FROM (\S+)$/m.exec(read('Dockerfile')) ?? []
    expect(base).toMatch(/:\d+\.\d+\.\d+-/)
    expect(existsSync(new URL(`${build.context}/${build.dockerfile}`, FOLDER))).toBe(true)
  } else {
    expect(image).toMatch(/^[\w./-]+:v?\d+\.\d+(\.\d+)?(-[\w.]+)?$/)
  }
})

test.each(services)('%s waits only for services that are there and say when they are healthy', (_, service) => {
  for (const [name, { condition }] of Object.entries(service.depends_on ?? {})) {
    expect(compose.services).toHaveProperty([name])
    if (condition === 'service_healthy') expect(compose.services[name]?.healthcheck?.test[0]).toBe('CMD')
    else expect(WITHOUT_SHELL).toContain(name)
  }
})

test.each(services)('%s has a health check, where its image can make one', (name, { healthcheck }) => {
  expect(healthcheck !== undefined).toBe(!WITHOUT_SHELL.includes(name))
})

test.each(services)('%s can be reached from this machine only, if at all', (_, { ports = [] }) => {
  for (const port of ports) expect(port).toMatch(/^127\.0\.0\.1:\d+:\d+$/)
})

test('no two services have the same port of the machine', () => {
  const ports = services.flatMap(([, service]) => service.ports ?? []).map((port) => port.split(':')[1])
  expect(new Set(ports).size).toBe(ports.length)
})

test('every volume is declared and used once; every file that is mounted is there', () => {
  const mounted = services.flatMap(([, { volumes = [] }]) => volumes).map((volume) => volume.split(':')[0] ?? '')
  const files = mounted.filter((source) => source.startsWith('.'))
  expect(mounted.filter((source) => !files.includes(source)).sort()).toEqual(Object.keys(compose.volumes).sort())
  expect(files.length).toBeGreaterThan(0)
  for (const file of files) {
    expect(existsSync(new URL(file, FOLDER)), file).toBe(true)
    if (/\.ya?ml$/.test(file)) expect(() => parse(read(file))).not.toThrow()
  }
})

test('the node reads its settings as they are meant, and they name services', () => {
  const { environment = {} } = compose.services['zerosum'] ?? {}
  const env = Object.fromEntries(
    Object.entries(environment).map(([name, value]) => [
      name,
      `${value}`.replaceAll(`\${ZEROSUM_PASSWORD}`, '0123456789abcdef'),
    ]),
  )
  expect(Object.values(env).filter((value) => value.includes('$'))).toEqual([])
  const { host, port, shardUrls } = readConfig(env)
  expect({ host, port, shards: shardUrls.map((url) => new URL(url).hostname) }).toEqual({
    host: '0.0.0.0',
    port: 3000,
    shards: ['shard-0', 'shard-1'],
  })
  const [kafkaHost, kafkaPort] = (env['KAFKA_BROKERS'] ?? '').split(':')
  const others = [new URL(env['REDIS_URL'] ?? ''), new URL(env['OTEL_EXPORTER_OTLP_ENDPOINT'] ?? '')]
  for (const name of [kafkaHost ?? '', ...others.map(({ hostname }) => hostname)]) {
    expect(compose.services).toHaveProperty([name])
  }
  expect(compose.services['kafka']?.environment?.['KAFKA_ADVERTISED_LISTENERS']).toBe(
    `PLAINTEXT://${kafkaHost}:${kafkaPort}`,
  )
})

test('Prometheus and Grafana find their files where they are mounted', () => {
  const mountsOf = (service: string) =>
    (compose.services[service]?.volumes ?? [])
      .map((volume) => volume.split(':'))
      .filter(([source]) => source?.startsWith('.'))
  const [[rules = '', inPrometheus] = []] = mountsOf('prometheus')
  // Where the image looks for it by itself.
  expect(inPrometheus).toBe('/etc/prometheus')
  expect(existsSync(new URL(`${rules}/prometheus.yml`, FOLDER))).toBe(true)
  const { options } = parse(read('grafana/provisioning/dashboards/zerosum.yml')).providers[0]
  expect(mountsOf('grafana').map(([source, target]) => [source, target])).toEqual([
    ['./grafana/provisioning/datasources', '/etc/grafana/provisioning/datasources'],
    ['./grafana/provisioning/dashboards', '/etc/grafana/provisioning/dashboards'],
    ['./grafana/dashboards', options.path],
  ])
  const { url } = parse(read('grafana/provisioning/datasources/prometheus.yml')).datasources[0]
  expect(compose.services).toHaveProperty([new URL(url).hostname])
})

test('no password is written down', () => {
  const passwords = services.flatMap(([, { environment = {} }]) =>
    Object.entries(environment).flatMap(([name, value]) => (name.endsWith('PASSWORD') ? [value] : [])),
  )
  expect(passwords).toHaveLength(3)
  for (const password of passwords) expect(password).toMatch(/^\$\{ZEROSUM_PASSWORD:\?/)
})

test('the image runs the pinned major version of Node as a user without rights, and copies what is there', () => {
  const dockerfile = read('Dockerfile')
  const pinned: string = JSON.parse(read('../package.json')).dependencies.node
  expect(dockerfile).toContain(`FROM node:${pinned.split('.')[0]}.`)
  expect(dockerfile.lastIndexOf('USER node')).toBeGreaterThan(dockerfile.lastIndexOf('RUN '))
  const copied = [...dockerfile.matchAll(/^COPY (.+) \S+$/gm)].flatMap(([, names = '']) => names.split(' '))
  const admitted = read('Dockerfile.dockerignore').split('\n')
  expect(copied.length).toBeGreaterThan(0)
  for (const name of copied) {
    expect(existsSync(new URL(`../${name}`, FOLDER))).toBe(true)
    expect(admitted).toContain(`!${name}`)
  }
})

function read(file: string): string {
  return readFileSync(fileURLToPath(new URL(file, FOLDER)), 'utf8')
}
