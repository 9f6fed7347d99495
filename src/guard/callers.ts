import { connect, type Sql } from '../postgres/connect.ts'
import { createReadGuard } from './readGuard.ts'

const CONNECTIONS = 2
const ANSWER_MS_MAX = 5_000

/**
 * Connections to the first shard's database for what callers wait for beside the ledger: at most so many statements and transactions wait for
 * one, and none while the database is silent. What is refused was not begun. Closed by whoever opened it.
 * @param name shown in `pg_stat_activity`
 */
export function connectForCallers(url: string, name: string): Sql {
  const { run: guard } = createReadGuard({ atOnceMax: CONNECTIONS })
  return connect(url, { max: CONNECTIONS, name, answerMsMax: ANSWER_MS_MAX, guard })
}
