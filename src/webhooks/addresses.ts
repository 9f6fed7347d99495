import { BlockList, isIP } from 'node:net'

/**
 * Which addresses may be called for somebody else: those that the special-purpose registries of IANA (RFC 6890) leave to the public
 * internet. Written as what is refused for IPv4, and as what is allowed for IPv6, of which most is not given out.
 */

/** `private`: somebody's own network. `never`: nothing that a webhook could have to do with. */
export type Reach = 'public' | 'private' | 'never'

const listOf = (family: 'ipv4' | 'ipv6', subnets: readonly string[]): BlockList => {
  const list = new BlockList()
  for (const subnet of subnets) {
    const [network = '', prefix] = subnet.split('/')
    list.addSubnet(network, Number(prefix), family)
  }
  return list
}

const PRIVATE_4 = listOf('ipv4', ['10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16'])
const NEVER_4 = listOf('ipv4', [
  '0.0.0.0/8', // this host
  '100.100.100.200/32', // metadata of Alibaba Cloud
  '168.63.129.16/32', // the inside of Azure, at a public address
  '169.254.0.0/16', // link-local; metadata of AWS, Google, Azure and others
  '192.0.0.0/24', // protocol assignments; metadata of Oracle Cloud
  '192.0.2.0/24', // documentation
  '192.88.99.0/24', // 6to4 relays
  '198.18.0.0/15', // benchmarks
  '198.51.100.0/24', // documentation
  '203.0.113.0/24', // documentation
  '224.0.0.0/4', // multicast
  '240.0.0.0/4', // reserved, and broadcast
])

const PUBLIC_6 = listOf('ipv6', ['2000::/3'])
const PRIVATE_6 = listOf('ipv6', ['::1/128', 'fc00::/7'])
// What lies outside of both lists is refused without being named: IPv4-mapped (::ffff:0:0/96), NAT64 (64:ff9b::/96, 64:ff9b:1::/48),
// link-local (fe80::/10), multicast (ff00::/8), unspecified.
const NEVER_6 = listOf('ipv6', [
  '2001::/23', // protocol assignments: Teredo, ORCHID
  '2001:db8::/32', // documentation
  '2002::/16', // 6to4: an IPv4 address inside
  '3fff::/20', // documentation
  'fd00:ec2::254/128', // metadata of AWS
  'fd20:ce::254/128', // metadata of Google
])

/** Where an address leads; what is no address leads nowhere: `never`. */
export function reachOf(address: string): Reach {
  const family = isIP(address)
  if (family === 4) {
    if (NEVER_4.check(address, 'ipv4')) return 'never'
    return PRIVATE_4.check(address, 'ipv4') ? 'private' : 'public'
  }
  // With a zone, `%eth0`, it is link-local whatever it looks like.
  if (family === 0 || address.includes('%') || NEVER_6.check(address, 'ipv6')) return 'never'
  if (PRIVATE_6.check(address, 'ipv6')) return 'private'
  return PUBLIC_6.check(address, 'ipv6') ? 'public' : 'never'
}
