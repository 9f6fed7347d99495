import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

/** A node in a process of its own, on a database, with what else the environment is to say. */
export async function startNode(
  database: string,
  more: NodeJS.ProcessEnv = {},
): Promise<{ node: ChildProcess; url: string }> {
  const env = { ...process.env, ZEROSUM_SHARDS: database, PORT: '0', HOST: '127.0.0.1', ...more }
  const node = spawn(process.execPath, ['src/cli.ts', 'start'], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  for await (const line of createInterface({ input: node.stdout })) {
    const url = /listens on (http:\S+);/.exec(line)?.[1]
    if (!url) continue
    // What it logs from now on is read and thrown away, as fast as it comes.
    node.stdout.resume()
    return { node, url }
  }
  throw new Error('the node ended before it listened')
}
