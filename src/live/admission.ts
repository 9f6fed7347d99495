import { ZerosumError } from '../errors.ts'

/** Who may have a stream, and which there are. */
export type Admission = {
  /**
   * Lets one more in.
   * @throws too_many_streams, streams_exhausted; the latter also when the node stops
   */
  enter(tenantId: string): Place
  /** Ends all; no more are let in. */
  close(): void
}

export type Place = {
  /** Ended when the stream has to end. */
  readonly ending: AbortController
  /** To be called when the stream is over. */
  leave(): void
}

export type AdmissionLimits = { perTenant?: number; perNode?: number; lifeMsMax?: number }

const PER_TENANT = 100
const PER_NODE = 1_000
/** After so long a reader has to ask again: a key that was revoked meanwhile is then found out. */
const LIFE_MS_MAX = 15 * 60_000

/** Counts the streams of this node. */
export function createAdmission({
  perTenant = PER_TENANT,
  perNode = PER_NODE,
  lifeMsMax = LIFE_MS_MAX,
}: AdmissionLimits = {}): Admission {
  const places = new Set<Place>()
  const counts = new Map<string, number>()
  let isClosed = false

  function enter(tenantId: string): Place {
    const count = counts.get(tenantId) ?? 0
    if (isClosed || places.size >= perNode) throw new ZerosumError('streams_exhausted')
    if (count >= perTenant) throw new ZerosumError('too_many_streams')
    const ending = new AbortController()
    // Not all that came at once go at once.
    const timer = setTimeout(() => ending.abort(), lifeMsMax * (0.75 + Math.random() / 4)).unref()
    const place: Place = {
      ending,
      leave() {
        if (!places.delete(place)) return
        clearTimeout(timer)
        const left = (counts.get(tenantId) ?? 1) - 1
        if (left > 0) counts.set(tenantId, left)
        else counts.delete(tenantId)
      },
    }
    places.add(place)
    counts.set(tenantId, count + 1)
    return place
  }

  return {
    enter,
    close() {
      isClosed = true
      for (const { ending } of places) ending.abort()
    },
  }
}
