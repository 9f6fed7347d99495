import { readFileSync } from 'node:fs'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { parse } from 'yaml'
import { messageOf } from '../../src/bus/cloudEvents.ts'
import { isSound } from '../../src/bus/eventData.ts'
import type { LedgerEvent } from '../../src/bus/events.ts'

type Schemas = Record<string, unknown>
type Document = {
  channels: Record<string, { address: string; messages: Record<string, { $ref: string }> }>
  components: {
    messages: Record<string, { name: string; headers: { $ref: string }; payload: { $ref: string } }>
    schemas: Schemas
  }
}

export const DOCUMENT = parse(readFileSync(new URL('../../docs/asyncapi.yaml', import.meta.url), 'utf8')) as Document

const ajv = new Ajv2020({ strict: false, allErrors: true })
ajv.addSchema({ $id: 'asyncapi', components: { schemas: DOCUMENT.components.schemas } })

/** What docs/asyncapi.yaml has against an event as a message, in words; nothing if it describes it. */
export function faultsOf(event: LedgerEvent): string[] {
  const { topic, key, value, headers } = messageOf(event)
  const channel = Object.values(DOCUMENT.channels).find(({ address }) => address === topic)
  const [reference] = Object.values(channel?.messages ?? {})
  const message = DOCUMENT.components.messages[reference?.$ref.split('/').at(-1) ?? '']
  if (!message) return [`no message of ${topic} is described`]
  return [
    ...(headers['ce_type'] === message.name ? [] : [`type ${headers['ce_type']} on ${topic}`]),
    ...(isSound(event) ? [] : ['consumers would leave it out']),
    ...(headers['ce_subject'] === key ? [] : ['the subject is not the key']),
    ...against(message.headers.$ref, headers),
    ...against(message.payload.$ref, JSON.parse(value)),
  ]
}

/** What it has against a request in the queue. */
export const requestFaultsOf = (text: string): string[] =>
  against('#/components/schemas/transferRequest', JSON.parse(text))

function against(reference: string, value: unknown): string[] {
  const validate = ajv.getSchema(`asyncapi${reference}`)
  if (!validate) return [`no schema ${reference}`]
  if (validate(value)) return []
  return (validate.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message}`)
}
