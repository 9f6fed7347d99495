import { SpanKind } from '@opentelemetry/api'
import { type Block, blockTimeUs, type ChainHead, sealBlock } from '../core/block.ts'
import { slotOfId } from '../core/ids.ts'
import type { PostingContext, Undecided } from '../core/move.ts'
import { type Outcome, type Posting, post } from '../core/post.ts'
import type { Request } from '../core/request.ts'
import { shardOfSlot } from '../core/shardMap.ts'
import { inSpan } from '../observe/spans.ts'
import { connect, failureOf, type Sql, type Tx } from '../postgres/connect.ts'
import { Memory } from './memory.ts'
import { appendBlock } from './sql/appendBlock.ts'
import { lockHead } from './sql/chainHead.ts'
import { readLayout, type StoredLayout } from './sql/layout.ts'
import { loadState } from './sql/loadState.ts'

/** The database did not take the block in time. What was sent may or may not be there: the same key asks again. */
export class LedgerUnavailable extends Error {}

/** Nothing was done; the same may be asked again, when `why` is seen to. */
export class RequestUndecided extends Error {
  readonly why: Undecided

  constructor(why: Undecided) {
    super(UNDECIDED[why])
    this.why = why
  }
}

const UNDECIDED: Readonly<Record<Undecided, string>> = {
  busy: 'it depends on a saga that is not over',
  ask_peers: 'the shards of other wallets must be asked',
  moving: 'what it names is moving to another shard',
  moved: 'what it names has moved to another shard',
  outdated: 'the change of the shard map is not under way here, or not so far',
}

/** What became of a request: decided, or why that isn't known. */
export type Result = Outcome | Error

/** Posts batches to one shard. */
export type Poster = {
  /**
   * Decides a batch and makes it durable; at most one block. Batches may overlap, they are decided in the order of the calls.
   * @returns a result for each request, in order: its outcome, once that is on disk; or LedgerUnavailable when the database
   * can't be reached or others kept winning the chain; RequestUndecided; or what went wrong with this very request (a bug)
   */
  post(requests: readonly Request[]): Promise<Result[]>
  close(): Promise<void>
}

/** @param commitMs from when the block was sent until it was known to be on disk */
export type OnBlock = (block: Block, posting: Posting, commitMs: number) => void

export type PosterOptions = {
  url: string
  shard: number
  /** Names this node in the blocks that it writes. */
  writer: string
  /** Microseconds since 1970. */
  clockUs: () => number
  /** Told about each block that was written. */
  onBlock?: OnBlock
  /** Told about what went wrong and was tried again. */
  onTrouble?: (error: unknown) => void
}

const ATTEMPTS_MAX = 8
/** A database that is silent for so long is given up; it may have failed over behind a connection that never closes. */
const ANSWER_MS_MAX = 10_000
const RETRY_DELAY_MS_MAX = 1_000
/** After so many turns without another writer, a poster takes the chain for its own. */
const QUIET_TURNS = 3

/**
 * The imperative shell around the pure `post`. It writes in one of two ways:
 *
 *   leading    Nobody else writes. The state is in memory; a batch is decided as soon as the batch before it is, while that
 *              one's block is still on its way to disk. One message per block. If the chain moved after all, the block's
 *              compare-and-swap fails, and so does every block sent after it.
 *   following  Others write too, or it isn't known. One transaction takes the chain's lock, loads all that the batch names,
 *              decides, writes. Writers take turns.
 *
 * It starts following, leads after QUIET_TURNS turns in which the head was where it left it, and follows again as soon as
 * anything fails. A failed batch is tried again in a turn of its own: if its first try did reach the disk after all (the
 * connection broke at the wrong moment), the idempotency records say so, and its outcomes are found instead of decided.
 *
 * Where wallets live is part of what the chain says. It is read again when it has changed, and with it all that is in memory: what comes
 * back from another shard is not what left.
 *
 * Invariants: outcomes are handed out only after the block that holds them has been committed, or one that came after it;
 * `#memory` and `#head` are the state after the last block sent, or `undefined`.
 */
class ShardPoster implements Poster {
  readonly #options: PosterOptions
  /** One connection each: messages on it keep their order. Reads go beside, so that they overlap with a commit. */
  readonly #writes: Sql
  readonly #reads: Sql
  #memory: Memory | undefined
  #head: ChainHead | undefined
  /** Where things are; as of the last block sent, if this poster leads. */
  #layout: StoredLayout | undefined
  #quietTurns = 0
  /** Ends when the last batch has been decided (leading) or its turn is over (following). */
  #turn: Promise<unknown> = Promise.resolve()
  /** Ends when the last block sent is committed; fails with it. */
  #lastCommit: Promise<unknown> = Promise.resolve()

  constructor(options: PosterOptions) {
    this.#options = options
    const { url, shard } = options
    const both = { max: 1, answerMsMax: ANSWER_MS_MAX, postsBlocks: true }
    this.#writes = connect(url, { ...both, name: `zerosum poster ${shard}` })
    this.#reads = connect(url, { ...both, name: `zerosum poster reads ${shard}` })
  }

  async post(requests: readonly Request[]): Promise<Result[]> {
    const sent = await this.#inTurn(() => this.#lead(requests)).catch((error) => this.#follow(error))
    if (sent) {
      try {
        await sent.commit
        return sent.outcomes
      } catch (error) {
        this.#follow(error)
      }
    } else {
      // What was sent before this goes before this, also when it has to be done once more.
      await this.#lastCommit.catch(() => {})
    }
    return await this.#inTurn(() => this.#postAnyhow(requests))
  }

  async close(): Promise<void> {
    await this.#turn.catch(() => {})
    await Promise.all([this.#writes.end({ timeout: 5 }), this.#reads.end({ timeout: 5 })])
  }

  /** Decides on what is in memory and sends the block; `undefined` if this poster doesn't lead. */
  async #lead(requests: readonly Request[]): Promise<{ commit: Promise<unknown>; outcomes: Result[] } | undefined> {
    const memory = this.#memory
    const layout = this.#layout
    if (!memory || !layout) return undefined
    memory.learn(await loadState(this.#reads, memory.wantedBy(requests, this.#contextOf(layout)), layout.hasCopies))
    const head = this.#head
    // A block that was in flight failed meanwhile: what would be decided on is not what is there.
    if (this.#memory !== memory || !head) return undefined
    const { block, posting } = this.#decide(memory, requests, head, layout)
    const outcomes = posting.outcomes.map(resultOf)
    // What waits may wait for what another writer has ended: without a block, nothing would find that out.
    if (!block && posting.outcomes.some((outcome) => typeof outcome === 'string' && outcome !== 'ask_peers'))
      return undefined
    // Nothing new: the outcomes were decided by blocks that are committed, or on their way.
    if (!block) return { commit: this.#lastCommit, outcomes }
    memory.apply(posting.changes)
    this.#head = block
    if (posting.changes.isLayoutChanged) this.#forgetLayout()
    const sentMs = performance.now()
    const commit = append(this.#writes, block, posting)
    commit.then(
      () => this.#tell(block, posting, performance.now() - sentMs),
      () => {}, // whoever waits for the commit handles its failure
    )
    this.#lastCommit = commit
    return { commit, outcomes }
  }

  /**
   * One batch, one transaction; again if that fails. A batch that the database refuses is split until the culprit stands alone. All of it is one
   * turn: batches are decided in the order in which they came, whatever fails.
   */
  async #postAnyhow(requests: readonly Request[]): Promise<Result[]> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#takeTurn(requests)
      } catch (error) {
        this.#follow(error)
        if (failureOf(error) === 'refused') {
          if (requests.length === 1) return [new Error('posting failed', { cause: error })]
          const half = Math.ceil(requests.length / 2)
          const first = await this.#postAnyhow(requests.slice(0, half))
          return [...first, ...(await this.#postAnyhow(requests.slice(half)))]
        }
        if (attempt === ATTEMPTS_MAX) {
          const unavailable = new LedgerUnavailable('the ledger database is not available', { cause: error })
          return requests.map(() => unavailable)
        }
        const delayMs = Math.min(RETRY_DELAY_MS_MAX, 20 * 2 ** attempt) * (0.5 + Math.random() / 2)
        await new Promise((done) => setTimeout(done, delayMs))
      }
    }
  }

  async #takeTurn(requests: readonly Request[]): Promise<Result[]> {
    // What this writes is not in it.
    this.#memory = undefined
    let sentMs = 0
    const { head, layout, block, posting } = await this.#writes.begin(async (sql: Tx) => {
      const head = await lockHead(sql)
      const known = this.#layout
      const layout = known?.block === head.layoutBlock ? known : await readLayout(sql, this.#options.shard)
      const state = new Memory('unbounded')
      state.learn(await loadState(sql, state.wantedBy(requests, this.#contextOf(layout)), layout.hasCopies))
      const decided = this.#decide(state, requests, head, layout)
      sentMs = performance.now()
      if (decided.block) await append(sql, decided.block, decided.posting)
      return { head, layout, ...decided }
    })
    const commitMs = performance.now() - sentMs
    this.#layout = layout
    const isQuiet = this.#head?.number === head.number
    this.#quietTurns = isQuiet ? this.#quietTurns + 1 : 0
    this.#head = block ?? head
    if (posting.changes.isLayoutChanged) this.#forgetLayout()
    else if (this.#quietTurns >= QUIET_TURNS) this.#startToLead()
    if (block) this.#tell(block, posting, commitMs)
    // The replay of its own first try, which was committed after all, is a request's decision.
    return posting.outcomes.map((outcome, i) =>
      typeof outcome === 'object' && outcome.status === 'replayed' && outcome.record.id === requests[i]?.id
        ? { ...outcome, status: 'decided' }
        : resultOf(outcome),
    )
  }

  #decide(
    state: Memory,
    requests: readonly Request[],
    head: ChainHead,
    layout: StoredLayout,
  ): { block: Block | undefined; posting: Posting } {
    const { shard, writer, clockUs } = this.#options
    // Somebody else's clock may be ahead of this one: what comes from there comes after what was there.
    const before = requests.map(({ operation }) => (operation.kind === 'wallet-arrive' ? operation.departedUs : 0))
    const timeUs = blockTimeUs(head, Math.max(clockUs(), Math.max(...before) + 1))
    const posting = post(state, requests, { nowUs: timeUs, ...this.#contextOf(layout) })
    const isNews = posting.decisions.length > 0
    return { block: isNews ? sealBlock(head, posting.decisions, { shard, writer, timeUs }) : undefined, posting }
  }

  #contextOf({ map, open }: StoredLayout): Omit<PostingContext, 'nowUs'> {
    const shardOf = (id: string) => shardOfSlot(map, slotOfId(id))
    return { shard: this.#options.shard, shardOf, open, map }
  }

  /** The block is there, whatever a listener makes of it. */
  #tell(block: Block, posting: Posting, commitMs: number): void {
    try {
      this.#options.onBlock?.(block, posting, commitMs)
    } catch (error) {
      this.#options.onTrouble?.(error)
    }
  }

  #forgetLayout(): void {
    this.#memory = undefined
    this.#layout = undefined
  }

  #startToLead(): void {
    this.#memory = new Memory('bounded')
    this.#lastCommit = Promise.resolve()
  }

  #follow(error: unknown): void {
    this.#memory = undefined
    this.#head = undefined
    this.#quietTurns = 0
    this.#options.onTrouble?.(error)
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work, work)
    this.#turn = mine
    return await mine
  }
}

/** Sends a block. Its span is that of the statement, and of the commit too if the statement is in no transaction. */
function append(sql: Sql | Tx, block: Block, { changes }: Posting): Promise<void> {
  const attributes = {
    ...{ 'db.system.name': 'postgresql', 'db.operation.name': 'append_block', 'zerosum.shard': block.shard },
    ...{ 'zerosum.block': block.number, 'zerosum.block.requests': block.requestCount },
  }
  return inSpan('append_block', { kind: SpanKind.CLIENT, attributes }, () => appendBlock(sql, block, changes))
}

function resultOf(outcome: Outcome | Undecided): Result {
  return typeof outcome === 'object' ? outcome : new RequestUndecided(outcome)
}

/** A poster for one shard. It connects with the first batch. */
export function createPoster(options: PosterOptions): Poster {
  return new ShardPoster(options)
}
