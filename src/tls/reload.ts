import { readTls, type Tls, type TlsFiles } from './files.ts'

/** By reading, not by `fs.watch`: that loses sight of files which are replaced, or mounted anew by an orchestrator. */
const LOOK_MS = 10_000

export type ReloadOptions = {
  /** What is in use now. */
  current: Tls
  /** Told when the files hold something else that is right. */
  onChange: (tls: Tls) => void
  /** Told once of each thing that is wrong with them; what was there before stays in use. */
  onTrouble: (error: unknown) => void
  lookMs?: number
}

/** Follows certificates that are renewed in their files: looks every ten seconds, and when it is told to. */
export function followCertificates(files: TlsFiles, { onChange, onTrouble, ...options }: ReloadOptions) {
  let { current } = options
  let lastTrouble: string | undefined
  function look(): void {
    try {
      const found = readTls(files)
      lastTrouble = undefined
      if (found.cert === current.cert && found.key === current.key && found.ca === current.ca) return
      onChange(found)
      current = found
    } catch (error) {
      const trouble = String(error)
      // A certificate may be there a moment before its key is: the next look finds both.
      if (trouble !== lastTrouble) onTrouble(error)
      lastTrouble = trouble
    }
  }
  const timer = setInterval(look, options.lookMs ?? LOOK_MS)
  timer.unref()
  return { look, stop: () => clearInterval(timer) }
}
