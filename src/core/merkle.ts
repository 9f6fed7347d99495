import { hash } from 'node:crypto'

/**
 * The Merkle tree of RFC 6962, section 2.1: a leaf is SHA-256(0x00 ‖ bytes), a node is SHA-256(0x01 ‖ left ‖ right), and a
 * node without a sibling moves up as it is. The prefixes keep a leaf from being passed off as a node.
 */

/** The hash of a leaf, 32 bytes; text stands for its UTF-8 bytes. */
export function leafHash(text: string): Buffer {
  return hash('sha256', `\0${text}`, 'buffer')
}

/** The root over leaf hashes, 32 bytes. The root of no leaves is SHA-256 of nothing. */
export function merkleRoot(leaves: readonly Buffer[]): Buffer {
  const [first] = leaves
  if (!first) return hash('sha256', '', 'buffer')
  let level = leaves
  while (level.length > 1) level = parents(level)
  return level[0] ?? first
}

function parents(level: readonly Buffer[]): Buffer[] {
  const above: Buffer[] = []
  const bytes = Buffer.alloc(65, 1)
  for (let i = 0; i < level.length; i += 2) {
    const left = level[i]
    const right = level[i + 1]
    if (!left) break
    if (!right) {
      above.push(left)
      break
    }
    left.copy(bytes, 1)
    right.copy(bytes, 33)
    above.push(hash('sha256', bytes, 'buffer'))
  }
  return above
}
