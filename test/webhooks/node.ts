import { startDispatcher } from '../../src/webhooks/dispatcher.ts'

/** A process with a dispatcher on the database that its argument names; to be killed. */
startDispatcher({
  url: process.argv[2] ?? '',
  rules: { allowPrivate: true },
  onTrouble: console.error,
  callMsMax: 50_000,
})
process.on('disconnect', () => process.exit())
