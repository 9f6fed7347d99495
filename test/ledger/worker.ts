import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { seededRandom } from '../../bench/load.ts'
import type { Outcome } from '../../src/core/post.ts'
import { type Ledger, openLedger, transferOf } from '../support/ledger.ts'

const RETRY_MS = 50

/** One transfer that a worker asks for. The key tells everything apart. */
export type Payment = { readonly key: string; readonly from: string; readonly to: string; readonly amount: bigint }

/** What was said to it; no outcome, if it isn't known what became of it. */
export type Answer = { readonly payment: Payment; readonly outcome: Outcome | undefined }

/** Random payments: the same for the same seed, without end. */
export type PaymentPlan = { readonly name: string; readonly wallets: readonly string[]; readonly seed: number }

type Order =
  | { readonly kind: 'pay'; readonly payments: readonly Payment[] }
  | { readonly kind: 'load'; readonly plan: PaymentPlan; readonly count: number; readonly concurrency: number }
  | { readonly kind: 'close' }

type Report = { readonly kind: 'ready' | 'done' } | ({ readonly kind: 'answer' } & Answer)

/** The payments of a plan. Keys begin with its name. */
export function* paymentsOf({ name, wallets, seed }: PaymentPlan): Generator<Payment, never> {
  const random = seededRandom(seed)
  const draw = (max: number) => Math.floor(random() * max)
  for (let i = 0; ; i++) {
    const from = draw(wallets.length)
    const to = (from + 1 + draw(wallets.length - 1)) % wallets.length
    yield { key: `${name} ${i}`, from: wallets[from] ?? '', to: wallets[to] ?? '', amount: BigInt(1 + draw(500)) }
  }
}

/** Asks for payments, so many in the air at a time, and tells of each answer as it comes. */
export async function payAll(
  ledger: Ledger,
  payments: Iterable<Payment>,
  concurrency: number,
  onAnswer: (answer: Answer) => void,
): Promise<void> {
  // One iterator for all, which a client that stops does not close.
  const next = payments[Symbol.iterator]()
  const client = async () => {
    for (let item = next.next(); !item.done; item = next.next()) {
      const payment = item.value
      const { key, from, to, amount } = payment
      const outcome = await ledger.ask(transferOf(from, to, amount), key).catch(() => undefined)
      onAnswer({ payment, outcome })
      // As every client that was told that the ledger is away.
      if (outcome === undefined) await sleep(RETRY_MS)
    }
  }
  await Promise.all(Array.from({ length: concurrency }, client))
}

/** A process of its own with a ledger on the same database as others. */
export type Worker = {
  readonly process: ChildProcess
  /** Asks for these payments at once. */
  pay(payments: readonly Payment[]): Promise<Answer[]>
  /** Begins to ask for the payments of a plan; ends with the last answer, or with the process. */
  load(plan: PaymentPlan, options: { count: number; concurrency: number }): Promise<Answer[]>
  close(): Promise<void>
}

/** Forks a worker; it is ready to be told what to do. */
export async function startWorker(url: string, name: string): Promise<Worker> {
  const child = fork(fileURLToPath(import.meta.url), [url, name], { execArgv: [], serialization: 'advanced' })
  await once(child, 'message')

  const answersTo = (order: Order) =>
    new Promise<Answer[]>((resolve) => {
      const answers: Answer[] = []
      const onReport = (report: Report) => {
        if (report.kind === 'answer') answers.push(report)
        else end()
      }
      const end = () => {
        child.off('message', onReport)
        child.off('close', end)
        resolve(answers)
      }
      child.on('message', onReport)
      // Not 'exit': what was reported before the end may still be on its way then.
      child.on('close', end)
      child.send(order)
    })
  return {
    process: child,
    pay: (payments) => answersTo({ kind: 'pay', payments }),
    load: (plan, options) => answersTo({ kind: 'load', plan, ...options }),
    async close() {
      if (child.exitCode !== null || child.signalCode !== null) return
      const ended = once(child, 'close')
      child.send({ kind: 'close' } satisfies Order)
      await ended
    },
  }
}

/** The process itself. */
function work(url: string, name: string): void {
  const report = (message: Report) => process.send?.(message)
  const ledger = openLedger(url, name)
  const onAnswer = (answer: Answer) => report({ kind: 'answer', ...answer })
  process.on('message', async (order: Order) => {
    switch (order.kind) {
      case 'pay':
        await payAll(ledger, order.payments, order.payments.length, onAnswer)
        return report({ kind: 'done' })
      case 'load':
        await payAll(ledger, paymentsOf(order.plan).take(order.count), order.concurrency, onAnswer)
        return report({ kind: 'done' })
      case 'close':
        await ledger.close()
        return process.disconnect()
      default:
        order satisfies never
    }
  })
  process.on('disconnect', () => process.exit())
  report({ kind: 'ready' })
}

if (import.meta.main) work(process.argv[2] ?? '', process.argv[3] ?? '')
