/** The seed of a random test: `ZEROSUM_TEST_SEED`, to have a run again, or a new one. It is printed. */
export function seedFor(name: string): number {
  const seed = Number(process.env['ZEROSUM_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
  console.log(`${name}: ZEROSUM_TEST_SEED=${seed}`)
  return seed
}
