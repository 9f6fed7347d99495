import { parseArgs } from 'node:util'
import { benchPosting } from './posting.ts'

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'boolean', default: false },
    accounts: { type: 'string', default: '100000' },
    transfers: { type: 'string', default: '200000' },
    seed: { type: 'string', default: '1' },
  },
})

const options = {
  json: values.json,
  accounts: Number(values.accounts),
  transfers: Number(values.transfers),
  seed: Number(values.seed),
}

switch (positionals[0]) {
  case 'posting':
    await benchPosting(options)
    break
  default:
    console.error('usage: npm run bench -- posting [--accounts N] [--transfers N] [--seed N] [--json]')
    process.exitCode = 2
}
