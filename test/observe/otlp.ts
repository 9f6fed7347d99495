import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gunzipSync } from 'node:zlib'
import { onTestFinished } from 'vitest'

/** A span as a receiver gets it. Ids are hex; times nanoseconds since 1970. */
export type SeenSpan = {
  readonly traceId: string
  readonly spanId: string
  readonly parentId: string
  readonly name: string
  readonly kind: number
  readonly began: bigint
  readonly ended: bigint
  readonly attributes: Readonly<Record<string, string | number | boolean>>
  /** The spans that it links to. */
  readonly links: readonly string[]
  /** 0 unset, 1 ok, 2 error. */
  readonly status: number
  readonly service: string
}

/** An OTLP/HTTP receiver for traces on the loopback, until the end of the test. */
export async function openTraceReceiver() {
  const spans: SeenSpan[] = []
  const headers: Record<string, unknown>[] = []
  const server = createServer(async (request, answer) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk)
    const body = Buffer.concat(chunks)
    headers.push(request.headers)
    spans.push(...spansOf(request.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body))
    answer.writeHead(200, { 'content-type': 'application/x-protobuf' }).end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, spans, headers }
}

type Fields = Map<number, (Buffer | bigint)[]>

/** The fields of a protobuf message, by number. */
function fieldsOf(message: Buffer): Fields {
  const fields: Fields = new Map()
  let at = 0
  const varint = () => {
    let value = 0n
    for (let shift = 0n; ; shift += 7n) {
      const byte = message[at++] ?? 0
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
  }
  const bytes = (length: number) => {
    at += length
    return message.subarray(at - length, at)
  }
  while (at < message.length) {
    const tag = Number(varint())
    const type = tag & 7
    const value = type === 0 ? varint() : bytes(type === 1 ? 8 : type === 5 ? 4 : Number(varint()))
    fields.set(tag >> 3, [...(fields.get(tag >> 3) ?? []), value])
  }
  return fields
}

const messages = (fields: Fields, number: number) => (fields.get(number) ?? []).map((one) => fieldsOf(one as Buffer))
const buffer = (fields: Fields, number: number) => (fields.get(number)?.[0] ?? Buffer.alloc(0)) as Buffer
const hex = (fields: Fields, number: number) => buffer(fields, number).toString('hex')
const text = (fields: Fields, number: number) => buffer(fields, number).toString('utf8')
const whole = (fields: Fields, number: number) => Number(fields.get(number)?.[0] ?? 0n)

/** The numbers of the fields are those of opentelemetry-proto 1.7, `trace.proto` and `common.proto`. */
function spansOf(body: Buffer): SeenSpan[] {
  return messages(fieldsOf(body), 1).flatMap((resourceSpans) => {
    const service = messages(resourceSpans, 1).map(attributesIn(1))[0]?.['service.name'] ?? ''
    const spans = messages(resourceSpans, 2).flatMap((scope) => messages(scope, 2))
    return spans.map((span) => ({
      ...{ traceId: hex(span, 1), spanId: hex(span, 2), parentId: hex(span, 4), name: text(span, 5) },
      ...{ kind: whole(span, 6), began: buffer(span, 7).readBigUInt64LE(), ended: buffer(span, 8).readBigUInt64LE() },
      ...{ attributes: attributesIn(9)(span), links: messages(span, 13).map((link) => hex(link, 2)) },
      ...{ status: messages(span, 15).map((status) => whole(status, 3))[0] ?? 0, service: `${service}` },
    }))
  })
}

const attributesIn = (number: number) => (fields: Fields) =>
  Object.fromEntries(
    messages(fields, number).map((one) => {
      const value = messages(one, 2)[0] ?? new Map()
      return [text(one, 1), value.has(1) ? text(value, 1) : value.has(2) ? whole(value, 2) === 1 : whole(value, 3)]
    }),
  )

/** A trace as lines: each span below its parent, in the order of their beginnings; below one that is not there, at the margin. */
export function treeOf(spans: readonly SeenSpan[], traceId: string, lineOf = ({ name }: SeenSpan) => name): string[] {
  const mine = spans.filter((span) => span.traceId === traceId).sort((a, b) => Number(a.began - b.began))
  const ids = new Set(mine.map(({ spanId }) => spanId))
  const below = (parents: readonly SeenSpan[], depth: number): string[] =>
    parents.flatMap((span) => [
      '  '.repeat(depth) + lineOf(span),
      ...below(
        mine.filter(({ parentId }) => parentId === span.spanId),
        depth + 1,
      ),
    ])
  return below(
    mine.filter(({ parentId }) => !ids.has(parentId)),
    0,
  )
}
