import { hash } from 'node:crypto'
import type { ClientBase, QueryResult } from 'pg'

/**
 * SQL as tagged templates over `pg`: values become parameters, never text; a statement inside a statement becomes part of
 * it. Nothing is sent before it is awaited.
 *
 *   const rows = await sql<{ id: string }[]>`SELECT id FROM wallets WHERE holder_id = ${holder}`
 */

/** The rows of a result, and how many the statement touched. */
export type Rows<T extends readonly object[]> = T & { readonly count: number }

/** Runs one statement somewhere: on any connection of a pool, or on the one of a transaction. */
export type Execute = (query: { text: string; values: unknown[]; name?: string }) => Promise<QueryResult>

/** What an author writes as `sql`. */
export type Tag = {
  <T extends readonly object[] = Record<string, unknown>[]>(
    strings: TemplateStringsArray,
    ...values: readonly unknown[]
  ): Statement<T>
  /** An identifier, quoted. */
  (name: string): Identifier
  /** SQL as it stands, from a trusted place, unprepared. Several statements if there are no values. */
  unsafe<T extends readonly object[] = Record<string, unknown>[]>(text: string, values?: unknown[]): Promise<Rows<T>>
}

class Identifier {
  readonly quoted: string

  constructor(name: string) {
    this.quoted = `"${name.replaceAll('"', '""')}"`
  }
}

/** A statement, or a part of one. Awaiting it runs it, once. */
export class Statement<T extends readonly object[]> implements Promise<Rows<T>> {
  readonly [Symbol.toStringTag] = 'Statement'
  readonly #execute: Execute
  readonly #strings: TemplateStringsArray
  readonly #values: readonly unknown[]
  #result: Promise<Rows<T>> | undefined

  constructor(execute: Execute, strings: TemplateStringsArray, values: readonly unknown[]) {
    this.#execute = execute
    this.#strings = strings
    this.#values = values
  }

  // biome-ignore lint/suspicious/noThenProperty: awaiting a statement is how it is run
  then<A = Rows<T>, B = never>(
    onFulfilled?: ((rows: Rows<T>) => A | PromiseLike<A>) | null,
    onRejected?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#result ??= this.#run()
    return this.#result.then(onFulfilled, onRejected)
  }

  catch<B = never>(onRejected?: ((error: unknown) => B | PromiseLike<B>) | null): Promise<Rows<T> | B> {
    return this.then(null, onRejected)
  }

  finally(onFinally?: (() => void) | null): Promise<Rows<T>> {
    return this.then().finally(onFinally)
  }

  async #run(): Promise<Rows<T>> {
    const values: unknown[] = []
    const text = this.#write(values)
    return rowsOf<T>(await this.#execute({ text, values, name: nameOf(text) }))
  }

  /** The rows in portions of `size`, read as they are asked for. Inside a transaction only. */
  async *cursor(size: number): AsyncGenerator<T> {
    const values: unknown[] = []
    const name = `rows_${++cursorCount}`
    await this.#execute({ text: `DECLARE ${name} NO SCROLL CURSOR FOR ${this.#write(values)}`, values })
    for (;;) {
      const portion = rowsOf<T>(await this.#execute({ text: `FETCH ${size} FROM ${name}`, values: [] }))
      if (portion.length > 0) yield portion
      if (portion.length < size) break
    }
    await this.#execute({ text: `CLOSE ${name}`, values: [] })
  }

  /** Puts the text together; values are collected on the way and become $1, $2, … */
  #write(values: unknown[]): string {
    return this.#strings.reduce((text, string, i) => {
      const value = this.#values[i - 1]
      if (value instanceof Statement) return text + value.#write(values) + string
      if (value instanceof Identifier) return text + value.quoted + string
      values.push(value)
      return `${text}$${values.length}${string}`
    })
  }
}

let cursorCount = 0
const names = new Map<string, string>()

/** Statements are prepared once a connection, under a name that follows from the text: texts are few, they stand in the code. */
function nameOf(text: string): string {
  const known = names.get(text)
  if (known) return known
  const name = hash('sha256', text).slice(0, 24)
  names.set(text, name)
  return name
}

function rowsOf<T extends readonly object[]>({ rows, rowCount }: QueryResult): Rows<T> {
  return Object.assign(rows as unknown as T, { count: rowCount ?? 0 })
}

/** Makes the tag that runs its statements by `execute`. */
export function tagFor(execute: Execute): Tag {
  const tag = (first: TemplateStringsArray | string, ...values: readonly unknown[]) =>
    typeof first === 'string' ? new Identifier(first) : new Statement(execute, first, values)
  const unsafe = async (text: string, values: unknown[] = []) => {
    const result = await execute({ text, values })
    return rowsOf(Array.isArray(result) ? result.at(-1) : result)
  }
  return Object.assign(tag, { unsafe }) as Tag
}

/** Runs statements on one client. */
export function executeOn(client: Pick<ClientBase, 'query'>): Execute {
  return (query) => (query.values.length === 0 && !query.name ? client.query(query.text) : client.query(query))
}

/** The same, each statement after the answer to the one before: what one client can take. */
export function oneByOne(execute: Execute): Execute {
  let last: Promise<unknown> = Promise.resolve()
  return (query) => {
    const mine = last.then(() => execute(query))
    last = mine.catch(() => {}) // whoever asked handles it
    return mine
  }
}
