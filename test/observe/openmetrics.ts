/** What an exposition says, in either format. */
export type Sample = {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
  readonly exemplar?: { readonly labels: Readonly<Record<string, string>>; readonly value: number }
}
export type Family = { readonly name: string; readonly type: string; readonly help: string; readonly samples: Sample[] }

const SUFFIXES: Record<string, readonly string[]> = {
  counter: ['_total'],
  gauge: [''],
  histogram: ['_bucket', '_sum', '_count'],
  summary: ['', '_sum', '_count'],
}

const LABELS = String.raw`(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*",?)*`
const LINE = new RegExp(String.raw`^([a-zA-Z_:][\w:]*)(?:\{(${LABELS})\})? (\S+)(?: # \{(${LABELS})\} (\S+) (\S+))?$`)

/**
 * Reads OpenMetrics 1.0, strictly: families in one piece, with the suffixes of their types; no series twice; buckets that rise and end with all;
 * exemplars on buckets only, within them; `# EOF`.
 */
export function parseOpenMetrics(text: string): Map<string, Family> {
  if (!text.endsWith('\n# EOF\n')) throw new Error('it has no end')
  const families = new Map<string, Family>()
  const seen = new Set<string>()
  let family: { name: string; type: string; help: string; samples: Sample[] } | undefined
  for (const line of text.slice(0, -'# EOF\n'.length - 1).split('\n')) {
    const [, keyword, name = '', rest = ''] = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line) ?? []
    if (keyword === 'HELP') {
      if (families.has(name)) throw new Error(`${name} comes twice`)
      family = { name, type: 'unknown', help: rest, samples: [] }
      families.set(name, family)
    } else if (keyword === 'TYPE') {
      if (family?.name !== name) throw new Error(`a type out of place: ${line}`)
      family.type = rest
    } else {
      const sample = parseSample(line)
      const suffix = family && sample.name.startsWith(family.name) ? sample.name.slice(family.name.length) : undefined
      if (!family || suffix === undefined || !SUFFIXES[family.type]?.includes(suffix)) {
        throw new Error(`a sample that belongs to no family: ${line}`)
      }
      if (sample.exemplar && suffix !== '_bucket') throw new Error(`an exemplar of what is no bucket: ${line}`)
      const series = `${sample.name} ${JSON.stringify(Object.entries(sample.labels).sort())}`
      if (seen.has(series)) throw new Error(`a series twice: ${line}`)
      seen.add(series)
      family.samples.push(sample)
    }
  }
  for (const each of families.values()) if (each.type === 'histogram') checkBuckets(each)
  return families
}

function parseSample(line: string): Sample {
  const [, name, labels = '', value = '', exemplarLabels, exemplarValue] = LINE.exec(line) ?? []
  if (name === undefined || (Number.isNaN(numberOf(value)) && value !== 'NaN')) throw new Error(`not a sample: ${line}`)
  const exemplar =
    exemplarLabels === undefined ? {} : { exemplar: { labels: labelsOf(exemplarLabels), value: Number(exemplarValue) } }
  return { name, labels: labelsOf(labels), value: numberOf(value), ...exemplar }
}

function labelsOf(text: string): Record<string, string> {
  return Object.fromEntries([...text.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]))
}

const numberOf = (text: string) => (text === '+Inf' ? Number.POSITIVE_INFINITY : Number(text))

function checkBuckets({ name, samples }: Family): void {
  const last = new Map<string, { le: number; value: number }>()
  for (const { name: sampleName, labels, value, exemplar } of samples) {
    const { le: bound, ...others } = labels
    const series = JSON.stringify(Object.entries(others).sort())
    const before = last.get(series)
    if (sampleName.endsWith('_bucket')) {
      const le = numberOf(bound ?? '')
      if (/^\d+$/.test(bound ?? '')) throw new Error(`${name} has a bound that is not canonical: ${bound}`)
      if (before && (le <= before.le || value < before.value)) throw new Error(`${name} has buckets that do not rise`)
      if (exemplar && (exemplar.value > le || exemplar.value <= (before?.le ?? -1))) {
        throw new Error(`${name} has an exemplar out of its bucket`)
      }
      last.set(series, { le, value })
    } else if (sampleName.endsWith('_count') && (before?.le !== Number.POSITIVE_INFINITY || before.value !== value)) {
      throw new Error(`${name} counts what is in no bucket`)
    }
  }
}

/** The value of the sample with these labels, and whatever others; `undefined` if there is none. @throws if there are several */
export function figureOf(
  families: ReadonlyMap<string, Family>,
  name: string,
  labels: Record<string, string> = {},
): number | undefined {
  const samples = [...families.values()].flatMap((family) => family.samples).filter((sample) => sample.name === name)
  const found = samples.filter((sample) => Object.entries(labels).every(([key, value]) => sample.labels[key] === value))
  if (found.length > 1) throw new Error(`${name} ${JSON.stringify(labels)} has ${found.length} series`)
  return found[0]?.value
}
