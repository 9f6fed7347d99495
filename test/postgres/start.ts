import { type EmbeddedServer, startEmbedded } from '../../src/postgres/embedded.ts'

/** What this says to the process that forked it: that it waits; then where the server is, or why it isn't. */
export type StartReport = { readonly url: string } | { readonly error: string }

/** What it is told to do. */
export type StartOrder = 'start' | 'stop'

/** A program that keeps an embedded server in the directory of its first argument, until it is told to stop or is killed. */
function keepServer(directory: string): void {
  const report = (message: StartReport | 'waiting') => process.send?.(message)
  let server: EmbeddedServer | undefined
  process.on('message', async (order: StartOrder) => {
    try {
      if (order === 'start') {
        server = await startEmbedded(directory)
        report({ url: server.url('postgres') })
        return
      }
      await server?.stop()
    } catch (error) {
      report({ error: error instanceof Error ? error.message : String(error) })
    }
    process.disconnect()
  })
  report('waiting')
}

if (import.meta.main) keepServer(process.argv[2] ?? '')
