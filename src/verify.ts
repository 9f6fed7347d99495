import { type ShardReport, verifyShard } from './ledger/auditor.ts'
import { connect } from './postgres/connect.ts'

/**
 * Verifies every shard and prints what was found, with progress on stderr.
 * @returns the exit code: 0 if all books agree, 1 if some don't
 */
export async function verifyShards(urls: readonly string[], { json }: { json: boolean }): Promise<number> {
  const reports: ShardReport[] = []
  for (const [shard, url] of urls.entries()) {
    const sql = connect(url, { max: 1, name: 'zerosum verify' })
    try {
      reports.push(await verifyShard(sql, shard, progressOf(shard)))
    } finally {
      await sql.end({ timeout: 5 })
    }
  }
  if (json) console.log(JSON.stringify(reports, null, 2))
  else for (const report of reports) console.log(textOf(report))
  return reports.every(({ balanced }) => balanced) ? 0 : 1
}

function progressOf(shard: number): (done: number, total: number) => void {
  if (!process.stderr.isTTY) return () => {}
  return (done, total) => {
    const percent = total === 0 ? 100 : Math.floor((done / total) * 100)
    process.stderr.write(`\rshard ${shard}: block ${done} of ${total} (${percent}%)${done === total ? '\n' : ''}`)
  }
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
