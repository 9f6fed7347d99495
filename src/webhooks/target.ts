import { Resolver } from 'node:dns/promises'
import { isIP } from 'node:net'
import { reachOf } from './addresses.ts'

/** Which endpoints may be called. */
export type TargetRules = {
  /** Also networks of one's own, plain HTTP, and any port: for tests and intranets. */
  readonly allowPrivate: boolean
  /** Finds the addresses of a name; throws when there are none. */
  readonly resolve?: (name: string) => Promise<readonly string[]>
  /** Told why a host is not called, for whoever runs this installation: tenants must not know, it may tell of our network. */
  readonly onRefused?: (refused: { readonly host: string; readonly why: string }) => void
}

/** Where a delivery goes: its addresses were checked, and no others are connected to. */
export type Target = { readonly url: URL; readonly addresses: readonly string[] }

/** Why it goes nowhere. In words for whoever owns the endpoint: they tell nothing of our network. */
export type NoTarget = { readonly refusal: string }

export const URL_LENGTH_MAX = 2048
const PORTS: ReadonlySet<string> = new Set(['', '443', '8443'])
const ADDRESSES_MAX = 8
/** The same whether there is no such name, or it is one of our own network, or nobody answers for it. */
const NOT_CALLABLE: NoTarget = { refusal: 'its host leads to no address that can be called' }

/** What can be said of a URL without asking anybody: the URL as it will be kept, or why it is refused. */
export function readUrl(text: string, { allowPrivate }: TargetRules): { url: URL } | NoTarget {
  if (text.length > URL_LENGTH_MAX) return { refusal: `it is longer than ${URL_LENGTH_MAX} characters` }
  const url = URL.parse(text)
  if (!url) return { refusal: 'it is not a URL' }
  if (url.href.length > URL_LENGTH_MAX) return { refusal: `it is longer than ${URL_LENGTH_MAX} characters` }
  if (url.protocol !== 'https:' && !(allowPrivate && url.protocol === 'http:'))
    return { refusal: 'it must begin with https://' }
  if (url.username !== '' || url.password !== '') return { refusal: 'it must not name a user or a password' }
  if (url.hash !== '') return { refusal: 'it must not have a fragment' }
  if (!allowPrivate && !PORTS.has(url.port)) return { refusal: 'its port must be 443 or 8443' }
  const host = hostOf(url)
  // A name of one label is one of somebody's own network.
  if (!allowPrivate && isIP(host) === 0 && !/[^.]\.[^.]/.test(host)) return { refusal: 'its host must be a full name' }
  return { url }
}

/**
 * Looks a URL's host up and checks every address that comes of it; one that may not be called refuses them all.
 * @param signal ends the waiting for name servers
 */
export async function findTarget(text: string, rules: TargetRules, signal?: AbortSignal): Promise<Target | NoTarget> {
  const read = readUrl(text, rules)
  if ('refusal' in read) return read
  const host = hostOf(read.url)
  const refuse = (why: string) => {
    rules.onRefused?.({ host, why })
    return NOT_CALLABLE
  }
  const found = isIP(host) === 0 ? await addressesOf(host, rules, signal) : [host]
  if (!Array.isArray(found)) return refuse(`${found}`)
  if (found.length === 0) return refuse('it has no address')
  const mayCall = (address: string) => {
    const reach = reachOf(address)
    return reach === 'public' || (rules.allowPrivate && reach === 'private')
  }
  const refused = found.find((address) => !mayCall(address))
  if (refused !== undefined) return refuse(`${refused} may not be called`)
  return { url: read.url, addresses: found.slice(0, ADDRESSES_MAX) }
}

/** What a name leads to; an error if that can't be said. */
async function addressesOf(
  name: string,
  { resolve = resolveByDns }: TargetRules,
  signal?: AbortSignal,
): Promise<readonly string[] | Error> {
  const asked = resolve(name).catch((error: Error) => error)
  if (!signal) return await asked
  const late = new Promise<Error>((done) => {
    signal.addEventListener('abort', () => done(new Error('the name servers did not answer in time')), { once: true })
  })
  return await Promise.race([asked, late])
}

/** The host of a URL; an IPv6 address without its brackets. */
export function hostOf({ hostname }: URL): string {
  return hostname.replace(/^\[(.*)\]$/, '$1')
}

/**
 * Asks the name servers, not `getaddrinfo`: that takes one of four threads of the process for as long as a name server is silent, so a
 * few slow names would hold up all others.
 */
async function resolveByDns(name: string): Promise<string[]> {
  // RFC 6761, 6.3: never to be asked for.
  if (/(^|\.)localhost\.?$/.test(name)) return ['127.0.0.1', '::1']
  const resolver = new Resolver({ timeout: 2_000, tries: 2 })
  const answers = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)])
  const addresses = answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []))
  if (addresses.length > 0) return addresses
  throw new Error(answers.map((answer) => (answer.status === 'rejected' ? `${answer.reason}` : 'nothing')).join(', '))
}
