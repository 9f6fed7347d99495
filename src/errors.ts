import type { Refusal } from './core/refusal.ts'

/** One entry of the catalogue: the HTTP status of a problem, its title, and what whoever meets it should do. */
type Problem = { readonly status: number; readonly title: string; readonly advice: string }

const REFUSED: Record<Refusal, Problem> = {
  idempotency_key_reused: {
    status: 422,
    title: 'This idempotency key was used for another request',
    advice: 'Use a new key for a new request. A retry must repeat the body exactly.',
  },
  same_wallet: { status: 422, title: 'Payer and payee are the same wallet', advice: 'Name two different wallets.' },
  currency_mismatch: {
    status: 422,
    title: 'A wallet has another currency than the request',
    advice: 'Use the currency of the wallets; Zerosum does not convert.',
  },
  from_not_found: { status: 422, title: 'There is no such wallet to pay from', advice: 'Check the id in `from`.' },
  to_not_found: { status: 422, title: 'There is no such wallet to pay to', advice: 'Check the id in `to`.' },
  hold_not_found: { status: 422, title: 'There is no such hold', advice: 'Check the hold id.' },
  transfer_not_found: {
    status: 422,
    title: 'There is no such transfer to reverse',
    advice: 'Only completed transfers, top-ups and withdrawals can be reversed.',
  },
  hold_already_captured: {
    status: 422,
    title: 'The hold was captured already',
    advice: 'A hold is captured once; reverse or transfer instead.',
  },
  hold_already_released: { status: 422, title: 'The hold was released already', advice: 'Place a new hold.' },
  hold_expired: { status: 422, title: 'The hold has expired', advice: 'Place a new hold.' },
  hold_not_expired: { status: 422, title: 'The hold has not expired yet', advice: 'Release it instead.' },
  exceeds_hold: { status: 422, title: 'More than the hold is asked', advice: 'Capture at most the amount held.' },
  already_reversed: {
    status: 422,
    title: 'The transfer was reversed in full already',
    advice: 'Nothing is left to do.',
  },
  exceeds_reversible: {
    status: 422,
    title: 'More than is left of the transfer is asked back',
    advice: 'Ask for less, or name no amount to take back all that is left. Several legs are reversed in full only.',
  },
  wallet_closed: { status: 422, title: 'A wallet is closed', advice: 'A closed wallet stays closed; open a new one.' },
  wallet_frozen: { status: 422, title: 'A wallet is frozen', advice: 'Wait until it is active again.' },
  wallet_not_empty: {
    status: 422,
    title: 'The wallet still has money in it, or on its way',
    advice: 'Bring its balances to zero, pending ones too, then close it.',
  },
  limit_exceeded: { status: 422, title: 'A limit of a wallet is exceeded', advice: 'Move less, or raise the limit.' },
  insufficient_funds: { status: 422, title: 'The wallet cannot pay that much', advice: 'Top up, or move less.' },
  balance_overflow: { status: 422, title: 'A balance would pass 2^63 - 1', advice: 'Use another wallet.' },
  shard_unavailable: {
    status: 422,
    title: 'The shard of another wallet could not be reached',
    advice: 'Nothing moved. Ask again with a new key when the system has recovered.',
  },
}

/** Every code that an answer can carry. docs/errors.md lists the same, and a test compares. */
export const PROBLEMS = {
  bad_request: { status: 400, title: 'The request is not well-formed HTTP', advice: 'See detail.' },
  invalid_json: { status: 400, title: 'The body is not JSON', advice: 'Send valid JSON, in UTF-8.' },
  validation_failed: {
    status: 400,
    title: 'The request is not as the contract says',
    advice: 'See errors, a line a field.',
  },
  idempotency_key_missing: {
    status: 400,
    title: 'The Idempotency-Key header is missing',
    advice: 'Send a key of your own, a UUID for example, and the same one when you retry.',
  },
  unauthorized: {
    status: 401,
    title: 'No valid API key',
    advice: 'Send Authorization: Bearer and a key of your tenant.',
  },
  forbidden: { status: 403, title: 'The key lacks a scope', advice: 'Use a key with the scope that detail names.' },
  not_found: { status: 404, title: 'There is nothing here', advice: 'Check the path and the id.' },
  request_in_flight: {
    status: 409,
    title: 'The request is still being posted',
    advice: 'Send it again with the same key: it has one effect, and you get the answer.',
  },
  request_timeout: {
    status: 408,
    title: 'The request came too slowly',
    advice: 'Send it again with the same key, all of it within 30 seconds.',
  },
  payload_too_large: { status: 413, title: 'The body is too large', advice: 'Send less, in several requests.' },
  uri_too_long: { status: 414, title: 'The URL is too long', advice: 'Send at most 8,192 characters.' },
  headers_too_large: {
    status: 431,
    title: 'The headers are too large, or too many',
    advice: 'Send at most 16 KiB of them, and at most 100.',
  },
  unsupported_media_type: { status: 415, title: 'The body is not application/json', advice: 'Set Content-Type.' },
  ...REFUSED,
  webhook_url_refused: {
    status: 422,
    title: 'This URL can not be a webhook endpoint',
    advice: 'Name an https:// URL on the public internet; detail says what is wrong with this one.',
  },
  too_many_webhook_endpoints: {
    status: 422,
    title: 'The tenant has as many webhook endpoints as it may',
    advice: 'Delete one that is not needed any more.',
  },
  webhook_endpoint_disabled: {
    status: 422,
    title: 'The webhook endpoint is disabled',
    advice: 'Enable it first: PATCH it with disabled false.',
  },
  rate_limited: {
    status: 429,
    title: 'The tenant asks for more than its rate on this node',
    advice: 'Retry after the time given, same key. RateLimit says what is left.',
  },
  too_many_streams: {
    status: 429,
    title: 'The tenant has as many event streams open as it may on this node',
    advice: 'Close some, or retry after the time given.',
  },
  internal_error: {
    status: 500,
    title: 'Something went wrong on our side',
    advice: 'Retry with the same key. If it stays, report the correlationId.',
  },
  saturated: {
    status: 503,
    title: 'Too much is waiting already',
    advice: 'Retry after the time given, same key.',
  },
  overloaded: {
    status: 503,
    title: 'This node has too much to do',
    advice: 'Retry after the time given, same key.',
  },
  streams_exhausted: {
    status: 503,
    title: 'This node has no room for another event stream',
    advice: 'Retry after the time given.',
  },
  projections_unavailable: {
    status: 503,
    title: 'It is not known up to when this would be true',
    advice: 'Retry after the time given. If it stays, an operator can see why: detail says more.',
  },
  queue_unavailable: {
    status: 503,
    title: 'The queue of requests cannot be reached',
    advice: 'Retry after the time given with the same key: what was accepted is not posted twice.',
  },
  moving: {
    status: 503,
    title: 'What this is about is being moved to another database',
    advice: 'Retry after the time given, same key.',
  },
  stopping: {
    status: 503,
    title: 'This node is about to stop',
    advice: 'Ask another node. This one answers what still comes in, for a moment.',
  },
  ledger_unavailable: {
    status: 503,
    title: 'The ledger cannot be reached',
    advice: 'Retry after the time given with the same key: what was posted is not posted twice.',
  },
} as const satisfies Record<string, Problem>

export type ErrorCode = keyof typeof PROBLEMS

/** One field of a request that is not as it must be. */
export type FieldError = { field: string; message: string }

/** A problem that has an answer: thrown by what stands before the ledger, rendered by `http/problems.ts`. */
export class ZerosumError extends Error {
  readonly code: ErrorCode
  /** More members of the problem (RFC 9457, 3.2). */
  readonly extra: Readonly<Record<string, unknown>>

  constructor(code: ErrorCode, detail: string = PROBLEMS[code].advice, extra: Record<string, unknown> = {}) {
    super(detail)
    this.code = code
    this.extra = extra
  }
}
