import type { FastifyInstance, FastifyRequest } from 'fastify'
import { ZerosumError } from '../errors.ts'
import type { Directory, Principal, Scope } from '../tenants/directory.ts'
import { certificateNameOf } from '../tls/certificateName.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Who is asking; set before any handler under /v1 runs. */
    principal: Principal
  }
  interface FastifyContextConfig {
    /** The scope that a key needs for this route. */
    scope?: Scope
    /** The answer has no end of its own: how long it took says nothing. */
    isStream?: boolean
  }
}

/** Every route in this part of the app needs a key with the scope it declares; one that declares none is for `admin`. */
export function requireKeys(app: FastifyInstance, directory: Directory): void {
  app.decorateRequest('principal')
  app.addHook('onRequest', async (request) => {
    const principal = await principalOf(request, directory)
    const scope = request.routeOptions.config.scope ?? 'admin'
    if (!principal.scopes.has(scope) && !principal.scopes.has('admin')) {
      throw new ZerosumError('forbidden', `This call needs a key with the scope ${scope}.`)
    }
    request.principal = principal
  })
}

/**
 * Who sent a key, or came with a certificate that is known. Who has both works with the key, and both must be of one tenant: a stolen key
 * is no good beside somebody else's certificate.
 */
async function principalOf(request: FastifyRequest, directory: Directory): Promise<Principal> {
  const { authorization } = request.headers
  const name = certificateNameOf(request.socket)
  const byCertificate = name === undefined ? undefined : await directory.authenticateCertificate(name)
  if (authorization === undefined && byCertificate) return byCertificate
  const [, key] = /^Bearer +([\x21-\x7e]{1,200})$/i.exec(authorization ?? '') ?? []
  const byKey = key === undefined ? undefined : await directory.authenticate(key)
  if (!byKey || (byCertificate && byCertificate.tenantId !== byKey.tenantId)) throw new ZerosumError('unauthorized')
  return byKey
}
