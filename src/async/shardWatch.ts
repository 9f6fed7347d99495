/** Which shards do not answer, as far as is known. */
export type ShardWatch = {
  isAway(shard: number): boolean
  /** A shard may not answer. @returns whether it does, in time; if not, it counts as away until it does */
  doubt(shard: number): Promise<boolean>
  stop(): void
}

const LOOK_MS = 1_000
const ANSWER_MS_MAX = 5_000

/**
 * A breaker for each shard: what is for one that is away need not try, and holds up nothing that is for the others. It is not tried on
 * anybody's request, but by a question of its own, once a second. Being slow is not being away.
 * @param ask resolves when the shard answers
 */
export function createShardWatch(
  ask: (shard: number) => Promise<void>,
  { lookMs = LOOK_MS, answerMsMax = ANSWER_MS_MAX } = {},
): ShardWatch {
  const away = new Map<number, NodeJS.Timeout>()
  const asking = new Map<number, Promise<boolean>>()
  let isStopped = false

  /** One question at a time: whoever comes meanwhile shares it. */
  function answers(shard: number): Promise<boolean> {
    const known = asking.get(shard)
    if (known) return known
    const answer = inTime(ask(shard), answerMsMax).finally(() => asking.delete(shard))
    asking.set(shard, answer)
    return answer
  }

  function lookLater(shard: number): void {
    if (isStopped) return
    const look = async () => {
      if (await answers(shard)) away.delete(shard)
      else lookLater(shard)
    }
    away.set(
      shard,
      setTimeout(() => void look(), lookMs),
    )
  }

  return {
    isAway: (shard) => away.has(shard),
    async doubt(shard) {
      if (away.has(shard)) return false
      const isThere = await answers(shard)
      if (!isThere && !away.has(shard)) lookLater(shard)
      return isThere
    },
    stop() {
      isStopped = true
      for (const timer of away.values()) clearTimeout(timer)
      away.clear()
    },
  }
}

async function inTime(answer: Promise<void>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<boolean>((done) => {
    timer = setTimeout(() => done(false), ms)
  })
  const answered = answer.then(
    () => true,
    () => false,
  )
  return await Promise.race([answered, late]).finally(() => clearTimeout(timer))
}
