import type { DestinationStream } from 'pino'

type Line = { time?: string; level?: string; msg?: string; err?: Failure } & Record<string, unknown>
type Failure = { message?: string; stack?: string; cause?: Failure }

/** Makes lines for people of JSON lines, and writes them: `12:00:00.123 INFO  request method=GET …`. For a few a second, not for thousands. */
export function pretty(out: { write(text: string): unknown }): DestinationStream {
  return {
    write(text) {
      out.write(`${prettyLine(JSON.parse(text))}\n`)
    },
  }
}

function prettyLine({ time = '', level = '', msg = '', err, ...fields }: Line): string {
  const rest = Object.entries(fields).map(
    ([name, value]) => `${name}=${typeof value === 'object' ? JSON.stringify(value) : value}`,
  )
  const line = [time.slice(11, 23), level.toUpperCase().padEnd(5), msg, ...rest].join(' ')
  return harmless(err ? `${line}\n${failureText(err)}` : line)
}

function failureText({ message = '', stack, cause }: Failure): string {
  const text = `  ${stack ?? message}`.replaceAll('\n', '\n  ')
  return cause ? `${text}\n  because:\n${failureText(cause)}` : text
}

/** Nothing in a line may steer the terminal. */
function harmless(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is taken out
  return text.replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/g, '?')
}
