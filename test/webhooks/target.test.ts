import { describe, expect, it, test } from 'vitest'
import { reachOf } from '../../src/webhooks/addresses.ts'
import { sometimes } from '../../src/webhooks/sometimes.ts'
import { findTarget, readUrl, type TargetRules } from '../../src/webhooks/target.ts'

const REFUSED = { refusal: 'its host leads to no address that can be called' }

const STRICT: TargetRules = { allowPrivate: false, resolve: async () => ['93.184.215.14'] }
const OPEN: TargetRules = { allowPrivate: true, resolve: async () => ['93.184.215.14'] }

const PRIVATE = [
  '10.0.0.1',
  '10.255.255.255',
  '127.0.0.1',
  '127.255.255.254',
  '172.16.0.1',
  '172.31.255.255',
  '192.168.1.1',
  '100.64.0.1',
  '100.127.255.255',
  '::1',
  'fc00::1',
  'fdff:ffff::1',
]

const NEVER = [
  '0.0.0.0',
  '0.1.2.3',
  '169.254.169.254',
  '169.254.0.1',
  '168.63.129.16',
  '100.100.100.200',
  '192.0.0.1',
  '192.0.0.192',
  '192.0.2.1',
  '192.88.99.1',
  '198.18.0.1',
  '198.19.255.255',
  '198.51.100.1',
  '203.0.113.1',
  '224.0.0.1',
  '239.255.255.255',
  '240.0.0.1',
  '255.255.255.255',
  '::',
  '::ffff:127.0.0.1',
  '::ffff:7f00:1',
  '::ffff:8.8.8.8',
  '::ffff:0:127.0.0.1',
  '::127.0.0.1',
  '64:ff9b::7f00:1',
  '64:ff9b::8.8.8.8',
  '64:ff9b:1::a00:1',
  '100::1',
  '2001::1',
  '2001:0:7f00:1::',
  '2001:1ff::1',
  '2001:db8::1',
  '2002:7f00:1::1',
  '3fff::1',
  'fd00:ec2::254',
  'fd20:ce::254',
  'fe80::1',
  'fe80::1%eth0',
  '2606:2800:21f::1%1',
  'fec0::1',
  'ff02::1',
  '5f00::1',
  '4000::1',
  'localhost',
  '',
  '127.1',
]

const PUBLIC = [
  '1.1.1.1',
  '8.8.8.8',
  '9.255.255.255',
  '11.0.0.0',
  '100.63.255.255',
  '100.128.0.0',
  '172.15.255.255',
  '172.32.0.0',
  '169.253.255.255',
  '223.255.255.255',
  '2001:200::1',
  '2606:4700:4700::1111',
  '2a00:1450:4001::1',
]

describe('an address', () => {
  test.each([
    ...PRIVATE.map((address) => [address, 'private']),
    ...NEVER.map((address) => [address, 'never']),
    ...PUBLIC.map((address) => [address, 'public']),
  ])('%s is %s', (address, reach) => {
    expect(reachOf(address)).toBe(reach)
  })

  it.each([...PRIVATE, ...NEVER])(
    '%s is not called when a name leads to it, alone or among others',
    async (address) => {
      for (const addresses of [[address], ['8.8.8.8', address], [address, '8.8.8.8']]) {
        const target = await findTarget('https://hooks.example.com/', { ...STRICT, resolve: async () => addresses })
        expect(target).toEqual(REFUSED)
      }
    },
  )

  it.each(PRIVATE)('%s is called when private networks are allowed', async (address) => {
    const target = await findTarget('http://hooks.example.com/', { ...OPEN, resolve: async () => [address] })
    expect(target).toMatchObject({ addresses: [address] })
  })

  it.each(NEVER)('%s is not called even then', async (address) => {
    const target = await findTarget('http://hooks.example.com/', { ...OPEN, resolve: async () => [address] })
    expect(target).toHaveProperty('refusal')
  })
})

describe('a URL', () => {
  it.each([
    'https://127.0.0.1/',
    'https://127.1/',
    'https://2130706433/',
    'https://0x7f000001/',
    'https://0177.0.0.1/',
    'https://0/',
    'https://[::1]/',
    'https://[::]/',
    'https://[::ffff:127.0.0.1]/',
    'https://[::ffff:a9fe:a9fe]/',
    'https://[64:ff9b::a9fe:a9fe]/',
    'https://[fe80::1]/',
    'https://169.254.169.254/latest/meta-data/',
    'https://10.0.0.1/',
    'https://192.168.0.1:8443/',
    'https://１２７.0.0.1/',
  ])('%s leads to an address that may not be called, however it is written', async (url) => {
    expect(await findTarget(url, STRICT)).toEqual(REFUSED)
  })

  it.each([
    ['', 'it is not a URL'],
    ['example.com', 'it is not a URL'],
    ['https://', 'it is not a URL'],
    ['https://999.1.1.1/', 'it is not a URL'],
    ['http://example.com/', 'it must begin with https://'],
    ['ftp://example.com/', 'it must begin with https://'],
    ['file:///etc/passwd', 'it must begin with https://'],
    ['gopher://example.com/', 'it must begin with https://'],
    ['data:text/plain,x', 'it must begin with https://'],
    ['javascript:alert(1)', 'it must begin with https://'],
    ['https://me@example.com/', 'it must not name a user or a password'],
    ['https://me:secret@example.com/', 'it must not name a user or a password'],
    ['https://8.8.8.8#@example.com/', 'it must not have a fragment'],
    ['https://example.com/#part', 'it must not have a fragment'],
    ['https://example.com:22/', 'its port must be 443 or 8443'],
    ['https://example.com:6379/', 'its port must be 443 or 8443'],
    ['https://example.com:80/', 'its port must be 443 or 8443'],
    ['https://localhost/', 'its host must be a full name'],
    ['https://intranet/', 'its host must be a full name'],
    ['https://intranet./', 'its host must be a full name'],
    [`https://example.com/${'x'.repeat(2048)}`, 'it is longer than 2048 characters'],
    [`https://example.com/${'ü'.repeat(1000)}`, 'it is longer than 2048 characters'],
  ])('%s is refused: %s', async (url, refusal) => {
    expect(await findTarget(url, STRICT)).toEqual({ refusal })
  })

  it.each([
    'https://example.com',
    'https://example.com:443/a?b=c',
    'https://hooks.example.com:8443/x',
    'https://8.8.8.8/',
    'https://[2606:4700:4700::1111]/',
  ])('%s is taken', async (url) => {
    expect(await findTarget(url, STRICT)).toMatchObject({ url: new URL(url) })
  })

  it.each(['http://localhost:8080/', 'http://10.0.0.1:9000/hook', 'https://intranet/'])(
    '%s is taken when private networks are allowed',
    (url) => {
      expect(readUrl(url, OPEN)).toEqual({ url: new URL(url) })
    },
  )

  it.each(['ftp://example.com/', 'http://me@localhost/', 'http://localhost/#x', 'file:///etc/passwd'])(
    '%s is refused even then',
    (url) => {
      expect(readUrl(url, OPEN)).toHaveProperty('refusal')
    },
  )
})

describe('a name', () => {
  it('that there is not, that is private, or that nobody answers for is refused in the same words; why is told elsewhere', async () => {
    const told: unknown[] = []
    const rules = { ...STRICT, onRefused: (refused: object) => told.push(refused) }
    const answers = [
      async () => [],
      () => Promise.reject(new Error('ENOTFOUND')),
      async () => ['8.8.8.8', '10.1.2.3'],
      () => new Promise<string[]>(() => {}),
    ]
    for (const resolve of answers) {
      const over = resolve === answers.at(-1) ? AbortSignal.timeout(50) : undefined
      expect(await findTarget('https://db.example.com/', { ...rules, resolve }, over)).toEqual(REFUSED)
    }
    const whys = ['it has no address', 'Error: ENOTFOUND', '10.1.2.3 may not be called']
    const all = [...whys, 'Error: the name servers did not answer in time']
    expect(told).toEqual(all.map((why) => ({ host: 'db.example.com', why })))
  })

  it('that is refused again and again for the same reason is told of once', () => {
    const told: unknown[] = []
    const tell = sometimes((refused) => told.push(refused))
    const refused = [
      { host: 'a.example.com', why: 'one' },
      { host: 'b.example.com', why: 'one' },
      { host: 'a.example.com', why: 'two' },
    ]
    for (const one of [...refused, ...refused]) tell(one)
    expect(told).toEqual(refused)
  })

  it('is looked up once, and an address not at all', async () => {
    const asked: string[] = []
    const rules = { ...STRICT, resolve: async (name: string) => [`8.8.8.${asked.push(name)}`] }
    expect(await findTarget('https://Example.com/', rules)).toMatchObject({ addresses: ['8.8.8.1'] })
    expect(await findTarget('https://9.9.9.9/', rules)).toMatchObject({ addresses: ['9.9.9.9'] })
    expect(asked).toEqual(['example.com'])
  })

  it('localhost is never asked for outside', async () => {
    expect(await findTarget('http://localhost:1/', { allowPrivate: true })).toMatchObject({
      addresses: ['127.0.0.1', '::1'],
    })
  })
})
