import type { CopiesReport } from './audit/copies.ts'
import type { TransitReport } from './audit/transit.ts'
import { verifyAll } from './audit/verification.ts'
import { formatId } from './core/ids.ts'
import type { ShardReport } from './ledger/auditor.ts'

/**
 * Verifies every shard, and what is between them, and prints what was found, with progress on stderr.
 * @returns the exit code: 0 if all books agree, 1 if some don't
 */
export async function verifyShards(urls: readonly string[], { json }: { json: boolean }): Promise<number> {
  const verification = await verifyAll(urls, process.stderr.isTTY ? { onProgress } : {})
  if (json) console.log(JSON.stringify(verification, null, 2))
  else {
    for (const report of verification.shards) console.log(textOf(report))
    if (urls.length > 1) console.log(transitText(verification.transit))
    if (verification.copies?.discrepancy) console.log(copiesText(verification.copies))
  }
  return verification.balanced ? 0 : 1
}

function onProgress(shard: number, done: number, total: number): void {
  const percent = total === 0 ? 100 : Math.floor((done / total) * 100)
  process.stderr.write(`\rshard ${shard}: block ${done} of ${total} (${percent}%)${done === total ? '\n' : ''}`)
}

function textOf({ shard, blocks, requests, entries, accounts, head, discrepancy }: ShardReport): string {
  const seen = `${blocks} blocks, ${requests} requests, ${entries} entries, ${accounts} accounts`
  if (!discrepancy) return `shard ${shard}: the books agree: ${seen}; head ${head.number} ${head.hash}`
  const { block, transaction, account, problem } = discrepancy
  return [
    `shard ${shard}: THE BOOKS DO NOT AGREE, first here:`,
    `  block        ${block ?? 'unknown'}`,
    `  transaction  ${transaction ?? 'unknown'}`,
    `  account      ${account ?? 'unknown'}`,
    `  problem      ${problem}`,
  ].join('\n')
}

function copiesText({ discrepancy }: CopiesReport): string {
  return [
    'what moved between shards: THE COPIES DO NOT AGREE:',
    `  shard        ${discrepancy?.shard}`,
    `  transaction  ${formatId('txn', discrepancy?.request ?? '')}`,
    `  problem      ${discrepancy?.problem}`,
  ].join('\n')
}

function transitText({ sagas, inFlight, discrepancy }: TransitReport): string {
  if (!discrepancy) return `between shards: the books agree: ${sagas} sagas, ${inFlight} of them in flight`
  return [
    'between shards: THE BOOKS DO NOT AGREE:',
    `  transfer     ${formatId('trf', discrepancy.saga)}`,
    `  problem      ${discrepancy.problem}`,
  ].join('\n')
}
