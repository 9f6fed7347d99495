import { startAudits } from '../../src/audit/background.ts'

/** Begins audits and ends them, sooner and later. Run by itself: the process ends if nothing of them is left. */
const [, , url = ''] = process.argv
for (let afterMs = 0; afterMs < 40; afterMs++) {
  const audits = startAudits({ urls: () => [url], intervalMs: 1, onTrouble: () => {} })
  await new Promise((done) => setTimeout(done, afterMs))
  await audits.close()
}
