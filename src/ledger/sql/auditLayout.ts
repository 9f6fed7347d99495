import { difference, type Finding } from '../../core/audit.ts'
import type { Tx } from '../../postgres/connect.ts'

type StepsRow = {
  id: string
  block: bigint
  item: number
  kind: string
  epoch: string
  is_moved: boolean | null
  problem: string
}

/**
 * Finds where the shard map, or what is under way with it, is not what the chain's requests made of it; then a wallet with money on a
 * shard that its slot is not on. Of a chain that was walked already.
 */
export async function findWrongLayout(sql: Tx, shard: number): Promise<Finding | undefined> {
  return (await findWrongHeadOfLayout(sql)) ?? (await findWrongMap(sql)) ?? (await findStray(sql, shard))
}

async function findWrongHeadOfLayout(sql: Tx): Promise<Finding | undefined> {
  const [row] = await sql<
    {
      layout_block: bigint
      change: string | null
      phase: string | null
      due_block: bigint
      due_change: string | null
      due_phase: string | null
    }[]
  >`
    WITH steps AS (
      SELECT * FROM requests WHERE refusal IS NULL AND kind IN ('map-close', 'map-depart', 'map-open')
    ), last AS (
      SELECT scope, kind, block FROM steps ORDER BY block DESC, item DESC LIMIT 1
    )
    SELECT h.layout_block, c.id AS change, c.phase, coalesce((SELECT block FROM last), 0) AS due_block,
           (SELECT scope FROM last WHERE kind <> 'map-open') AS due_change,
           (SELECT CASE kind WHEN 'map-close' THEN 'closed' WHEN 'map-depart' THEN 'departing' END FROM last) AS due_phase
    FROM chain_head h LEFT JOIN map_change c ON true`
  if (!row) return undefined
  const { layout_block, change, phase, due_block, due_change, due_phase } = row
  const problem = difference(
    { layout_block, change, phase },
    { layout_block: due_block, change: due_change, phase: due_phase },
  )
  return problem === undefined ? undefined : nowhere(`of the change of the map that is under way, ${problem}`)
}

/** Each map but the first is what an accepted request made of the one before. */
async function findWrongMap(sql: Tx): Promise<Finding | undefined> {
  const [row] = await sql<Pick<StepsRow, 'block' | 'item' | 'id' | 'epoch'>[]>`
    WITH opened AS (
      SELECT block, item, id, payload->'change' AS change FROM requests
      WHERE refusal IS NULL AND kind = 'map-open' AND (payload->>'isMoved')::boolean
    ), maps AS (
      SELECT *, lag(slots) OVER (ORDER BY epoch) AS before, row_number() OVER (ORDER BY epoch) AS place FROM shard_map
    )
    SELECT o.block, o.item, o.id, coalesce(m.epoch::text, o.change->>'epoch') AS epoch
    FROM opened o FULL JOIN maps m ON m.epoch = (o.change->>'epoch')::int8
    WHERE CASE
      WHEN m.epoch IS NULL THEN true
      WHEN o.id IS NULL THEN m.place > 1
      ELSE (m.created_us, m.shard_count) <> ((o.change->>'createdUs')::int8, (o.change->>'shardCount')::int)
        OR m.drained <> ARRAY(SELECT json_array_elements_text(o.change->'drained')::int)
        OR m.slots <> (
          SELECT array_agg(CASE WHEN c.slot IS NULL THEN s.shard ELSE (o.change->>'to')::int END ORDER BY s.place)::int2[]
          FROM unnest(m.before) WITH ORDINALITY AS s (shard, place)
          LEFT JOIN (SELECT json_array_elements_text(o.change->'slots')::int AS slot) AS c ON c.slot = s.place - 1)
      END
    ORDER BY 4 LIMIT 1`
  return (
    row && {
      ...{ block: row.block === null ? null : Number(row.block), item: row.item, transaction: row.id, account: null },
      problem: `the shard map of epoch ${row.epoch} is not what a request made of the one before`,
    }
  )
}

/** What a wallet holds must be where its slot is. While it moves, it may be on its way. */
async function findStray(sql: Tx, shard: number): Promise<Finding | undefined> {
  const [row] = await sql<{ id: string }[]>`
    SELECT a.id FROM accounts a, (SELECT slots FROM shard_map ORDER BY epoch DESC LIMIT 1) AS m
    WHERE a.kind = 'wallet' AND m.slots[slot_of(a.id) + 1] <> ${shard}
      AND (a.credits_posted <> a.debits_posted OR a.debits_pending + a.credits_pending <> 0)
      AND NOT EXISTS (SELECT FROM map_change) ORDER BY a.id LIMIT 1`
  return (
    row && {
      ...nowhere('the wallet holds money here, but the shard map says that it lives elsewhere'),
      account: row.id,
    }
  )
}

function nowhere(problem: string): Finding {
  return { block: null, item: null, transaction: null, account: null, problem }
}
