import { expect } from 'vitest'
import { type ErrorCode, PROBLEMS } from '../../src/errors.ts'
import type { Answer, Problem } from '../support/api.ts'

/**
 * Expects problem details (RFC 9457) with everything that the contract promises, and the status of the catalogue.
 * @param codes the codes that will do; any, if none is named
 */
export function expectProblem(answer: Answer<unknown>, ...codes: ErrorCode[]): Problem {
  expect(answer.headers['content-type'], answer.text).toMatch(/^application\/problem\+json/)
  const problem = answer.body as Problem
  if (codes.length > 0) expect(codes, answer.text).toContain(problem.code)
  const { status, title } = PROBLEMS[problem.code]
  expect(problem, answer.text).toMatchObject({
    type: `urn:zerosum:problem:${problem.code}`,
    title,
    status,
    detail: expect.stringMatching(/./),
    instance: expect.stringMatching(/^\/[^?]*$/),
    correlationId: expect.stringMatching(/./),
  })
  expect(answer.status).toBe(status)
  expect(answer.headers['x-correlation-id'], 'the header names the same correlation id').toBe(problem.correlationId)
  return problem
}

/** An answer without what belongs to the call alone: what a replay repeats. */
export function lasting({ status, headers, body }: Answer<unknown>): unknown {
  const { correlationId: _, ...rest } = body as Problem
  return { status, location: headers['location'], body: rest }
}
