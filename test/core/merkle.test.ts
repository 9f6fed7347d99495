import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { leafHash, merkleRoot } from '../../src/core/merkle.ts'

function sha256(...parts: readonly Buffer[]): Buffer {
  return createHash('sha256').update(Buffer.concat(parts)).digest()
}

/** RFC 6962, 2.1, to the letter: split at the largest power of two below the number of leaves. */
function treeHash(leaves: readonly Buffer[]): Buffer {
  const [only] = leaves
  if (!only) return sha256()
  if (leaves.length === 1) return sha256(Buffer.of(0), only)
  let k = 1
  while (k * 2 < leaves.length) k *= 2
  return sha256(Buffer.of(1), treeHash(leaves.slice(0, k)), treeHash(leaves.slice(k)))
}

/** The leaves and roots that Certificate Transparency publishes (merkle_tree_test.cc): root i is that of i + 1 leaves. */
const LEAVES = ['', '00', '10', '2021', '3031', '40414243', '5051525354555657', '606162636465666768696a6b6c6d6e6f']
const ROOTS = [
  '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
  'fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125',
  'aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77',
  'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
  '4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4',
  '76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef',
  'ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c',
  '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328',
]

describe('the Merkle root', () => {
  test.each(ROOTS.map((root, i) => [i + 1, root] as const))(
    'of the first %i published leaves is the published one',
    (size, root) => {
      // all bytes of these leaves are ASCII, so they are their own UTF-8
      const leaves = LEAVES.slice(0, size).map((hex) => leafHash(Buffer.from(hex, 'hex').toString('latin1')))
      expect(merkleRoot(leaves).toString('hex')).toBe(root)
    },
  )

  test('of nothing is the hash of nothing', () => {
    expect(merkleRoot([]).toString('hex')).toBe('e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855')
  })

  test('of any number of leaves is that of the recursive definition', () => {
    for (let size = 0; size <= 70; size += 1) {
      const texts = Array.from({ length: size }, (_, i) => `leaf ${i} ✓`)
      expect(merkleRoot(texts.map(leafHash))).toEqual(treeHash(texts.map((text) => Buffer.from(text))))
    }
  })

  test('of any texts is that of the recursive definition', () => {
    fc.assert(
      fc.property(fc.array(fc.string({ unit: 'grapheme' }), { maxLength: 20 }), (texts) => {
        expect(merkleRoot(texts.map(leafHash))).toEqual(treeHash(texts.map((text) => Buffer.from(text))))
      }),
    )
  })

  test('depends on the order of the leaves, and a leaf more is another root', () => {
    const [a, b, c] = [leafHash('a'), leafHash('b'), leafHash('c')]
    const roots = [[a, b, c], [a, c, b], [b, a, c], [a, b], [a, b, c, c], [a]].map((leaves) => merkleRoot(leaves))
    expect(new Set(roots.map((root) => root.toString('hex'))).size).toBe(roots.length)
  })

  test('leaves the leaves as they are', () => {
    const leaves = ['a', 'b', 'c', 'd', 'e'].map(leafHash)
    const copies = leaves.map((leaf) => Buffer.from(leaf))
    merkleRoot(leaves)
    expect(leaves).toEqual(copies)
  })
})

test('the hash of a leaf is that of a zero byte and the UTF-8 of its text', () => {
  expect(leafHash('€')).toEqual(sha256(Buffer.of(0, 0xe2, 0x82, 0xac)))
})

test('a leaf made of the bytes of a node has not the hash of that node', () => {
  const [left, right] = [leafHash('left'), leafHash('right')]
  const asLeaf = sha256(Buffer.of(0), left, right)
  expect(merkleRoot([left, right])).not.toEqual(asLeaf)
})
