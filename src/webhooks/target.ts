import { Resolver } from 'node:dns/promises'
import { isIP } from 'node:net'
import { reachOf } from './addresses.ts'

/** Which endpoints may be called. */
export type TargetRules = {
  /** Also networks of one's own, plain HTTP, and any port: for tests and intranets. */
  readonly allowPrivate: boolean
  /** Finds the addresses of a name; throws when there are none. */
  readonly resolve?: (name: string) => Promise<readonly string[]>
}

/** Where a delivery goes: its addresses were checked, and no others are connected to. */
export type Target = { readonly url: URL; readonly addresses: readonly string[] }

/** Why it goes nowhere. In words for whoever owns the endpoint: they tell nothing of our network. */
export type NoTarget = { readonly refusal: string }

export const URL_LENGTH_MAX = 2048
const PORTS: ReadonlySet<string> = new Set(['', '443', '8443'])
const ADDRESSES_MAX = 8

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

/** Looks a URL's host up and checks every address that comes of it; one that may not be called refuses them all. */
export async function findTarget(text: string, rules: TargetRules): Promise<Target | NoTarget> {
  const read = readUrl(text, rules)
  if ('refusal' in read) return read
  const host = hostOf(read.url)
  const resolve = rules.resolve ?? resolveByDns
  const found = isIP(host) === 0 ? await resolve(host).catch(() => []) : [host]
  if (found.length === 0) return { refusal: 'its host has no address' }
  const mayCall = (address: string) => {
    const reach = reachOf(address)
    return reach === 'public' || (rules.allowPrivate && reach === 'private')
  }
  if (!found.every(mayCall)) return { refusal: 'its host has an address that may not be called' }
  return { url: read.url, addresses: found.slice(0, ADDRESSES_MAX) }
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
  return answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []))
}
