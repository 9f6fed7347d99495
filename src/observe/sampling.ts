/** Whose traces are kept, by the names of OpenTelemetry: a part of them, and `parentbased_…`, as the caller says if it sends a context. */
export const SAMPLERS = [
  ...(['always_on', 'always_off', 'traceidratio'] as const),
  ...(['parentbased_always_on', 'parentbased_always_off', 'parentbased_traceidratio'] as const),
] as const

export type Sampling = {
  readonly sampler: (typeof SAMPLERS)[number]
  /** The part that is kept, 0 to 1, for those that are told one. */
  readonly ratio: number
}
