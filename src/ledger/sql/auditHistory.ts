import { type Columns, difference, differingColumn, type Finding, type Value } from '../../core/audit.ts'

/** Where a request stands in the chain. */
export type Place = Pick<Finding, 'block' | 'item' | 'transaction'>

/** The place of a row that no request accounts for. */
export const NOWHERE: Place = { block: null, item: null, transaction: null }

/** What became of one thing, a wallet or a hold, told request by request. */
export type History<Row> = {
  /** The next request about it, in chain order. */
  add(row: Row): Finding | undefined
  /** After the last one. */
  end(): Finding | undefined
}

/** What the columns of a row must be: of each, the last value that a request gave it, and that request's place. */
export class Due {
  readonly #values: Record<string, Value> = {}
  readonly #places: Record<string, Place> = {}

  set(place: Place, columns: Columns): void {
    for (const [column, value] of Object.entries(columns)) {
      this.#values[column] = value
      this.#places[column] = place
    }
  }

  /** The first difference, at the place that set what is due; `undefined` when all is as it should be. */
  compare(stored: Columns): { readonly place: Place; readonly problem: string } | undefined {
    const column = differingColumn(stored, this.#values)
    const problem = difference(stored, this.#values)
    if (column === undefined || problem === undefined) return undefined
    return { place: this.#places[column] ?? NOWHERE, problem }
  }
}

/**
 * Goes over histories and answers with the finding that comes first in the chain.
 * @param pages rows with those of one subject together, in chain order
 * @param begin opens the history of the subject of a row
 */
export async function earliestFinding<Row extends { readonly subject: string }>(
  pages: AsyncIterable<Row[]>,
  begin: (row: Row) => History<Row>,
): Promise<Finding | undefined> {
  let earliest: Finding | undefined
  const note = (finding: Finding | undefined) => {
    if (finding && (!earliest || isBefore(finding, earliest))) earliest = finding
  }
  let subject: string | undefined
  let history: History<Row> | undefined
  for await (const rows of pages) {
    for (const row of rows) {
      if (row.subject !== subject) {
        note(history?.end())
        subject = row.subject
        history = begin(row)
      }
      note(history?.add(row))
    }
  }
  note(history?.end())
  return earliest
}

/** What stands nowhere comes last. */
function isBefore(a: Finding, b: Finding): boolean {
  const [blockA, blockB] = [a.block ?? Number.POSITIVE_INFINITY, b.block ?? Number.POSITIVE_INFINITY]
  return blockA < blockB || (blockA === blockB && (a.item ?? 0) < (b.item ?? 0))
}
