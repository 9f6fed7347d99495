import { type Directory, isKeyId, KEY_ID_SHOWN, KEYS_LISTED_MAX, type StoredKey } from './directory.ts'

/**
 * `zerosum keys list` and `keys revoke`: which keys there are, and taking one away.
 * @returns the exit code, 1 if nothing was revoked; `undefined` if that is not how it is called
 */
export async function runKeys(
  directory: Directory,
  [command, argument, ...rest]: string[],
): Promise<number | undefined> {
  if (rest.length > 0) return undefined
  if (command === 'list') return await list(directory, argument)
  if (command === 'revoke' && argument !== undefined && isKeyId(argument)) return await revoke(directory, argument)
  return undefined
}

async function list(directory: Directory, tenant: string | undefined): Promise<number> {
  const keys = await directory.list(tenant)
  for (const key of keys) console.log(lineOf(key))
  if (keys.length === KEYS_LISTED_MAX)
    console.error(`These are the newest ${KEYS_LISTED_MAX}. Name a tenant to see its own.`)
  return 0
}

async function revoke(directory: Directory, id: string): Promise<number> {
  const [key, other] = await directory.find(id)
  if (!key) console.error(`No key has an id that begins with ${id}: zerosum keys list shows them.`)
  else if (other) console.error(`Several keys have ids that begin with ${id}: say more of it.`)
  else if (!(await directory.revoke(key.id))) console.error(`It was revoked before: ${lineOf(key)}`)
  else {
    console.log(`Revoked: ${lineOf({ ...key, revokedAt: null })}`)
    console.error(
      'Nodes refuse it within ten seconds; one that can not reach the first shard may believe it for an hour. Streams that are open end by themselves.',
    )
    return 0
  }
  return 1
}

function lineOf({ id, tenant, hint, scopes, createdAt, revokedAt }: StoredKey): string {
  const made = `made ${createdAt.toISOString()}`
  const state = revokedAt ? `${made}, revoked ${revokedAt.toISOString()}` : made
  // A key's hint is its end; a certificate's name has a colon.
  const name = hint.includes(':') ? hint : `…${hint}`
  return [id.slice(0, KEY_ID_SHOWN), tenant, name, scopes.join(','), state].join('  ')
}
