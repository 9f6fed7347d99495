import { describe, expect, it } from 'vitest'
import { newSecret, sign } from '../../src/webhooks/signature.ts'

/** The vector that the reference libraries of Standard Webhooks share. */
const SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
const MESSAGE = { id: 'msg_p5jXN8AQM9LWM0D4loKWxJek', timestamp: 1614265330, body: '{"test": 2432232314}' }
const SIGNATURE = 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='

describe('a signature', () => {
  it('is the one that the reference libraries of Standard Webhooks make', () => {
    expect(sign([SECRET], MESSAGE)).toBe(SIGNATURE)
  })

  it('is made with each secret while they overlap, in their order, with a space between', () => {
    const other = newSecret()
    const alone = sign([other], MESSAGE)
    expect(alone).not.toBe(SIGNATURE)
    expect(sign([other, SECRET], MESSAGE)).toBe(`${alone} ${SIGNATURE}`)
  })

  it.each([{ id: 'msg_other' }, { timestamp: MESSAGE.timestamp + 1 }, { body: '{"test":2432232314}' }])(
    'is another one when %o changes',
    (change) => {
      expect(sign([SECRET], { ...MESSAGE, ...change })).not.toBe(SIGNATURE)
    },
  )
})

describe('a secret', () => {
  it('is whsec_ and between 24 and 64 bytes in base64, another one each time', () => {
    const secrets = Array.from({ length: 100 }, newSecret)
    expect(new Set(secrets).size).toBe(100)
    for (const secret of secrets) {
      expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]+=*$/)
      const bytes = Buffer.from(secret.slice(6), 'base64').length
      expect(bytes).toBeGreaterThanOrEqual(24)
      expect(bytes).toBeLessThanOrEqual(64)
    }
  })
})
