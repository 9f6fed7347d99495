import { parseArgs } from 'node:util'
import { benchAsync } from './async.ts'
import { benchBalanceReads } from './balanceReads.ts'
import { benchCrossShard } from './crossShard.ts'
import { benchHttp } from './http.ts'
import { benchObserved } from './observed.ts'
import { benchOverload } from './overload.ts'
import { benchPosting } from './posting.ts'

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'boolean', default: false },
    accounts: { type: 'string', default: '100000' },
    transfers: { type: 'string' },
    seconds: { type: 'string', default: '20' },
    seed: { type: 'string', default: '1' },
    svg: { type: 'string' },
    direct: { type: 'boolean', default: false },
    together: { type: 'boolean', default: false },
  },
})

const options = {
  json: values.json,
  accounts: Number(values.accounts),
  transfers: Number(values.transfers ?? (positionals[0] === 'async' ? 100_000 : 200_000)),
  seconds: Number(values.seconds),
  seed: Number(values.seed),
  svg: values.svg,
  direct: values.direct,
  together: values.together,
}

switch (positionals[0]) {
  case 'posting':
    await benchPosting(options)
    break
  case 'async':
    await benchAsync(options)
    break
  case 'http':
    await benchHttp(options)
    break
  case 'balance-reads':
    await benchBalanceReads(options)
    break
  case 'cross-shard':
    await benchCrossShard(options)
    break
  case 'observed':
    await benchObserved(options)
    break
  case 'overload':
    await benchOverload(options)
    break
  default:
    console.error(
      'usage: npm run bench -- posting|async|http|cross-shard|balance-reads|observed|overload [--accounts N] [--transfers N] [--seconds N] [--seed N] [--svg FILE] [--direct] [--together] [--json]',
    )
    process.exitCode = 2
}
