// Paths to routes.
import { expect, test } from 'vitest'
import type { Route } from '../../src/server/http.js'
import { Router } from '../../src/server/router.js'
import { failure } from '../support/errors.js'

const route = (method: Route['method'], path: string): Route => ({ method, path, handle: () => undefined })
const models = route('GET', '/models')
const model = route('GET', '/models/:model')
const remove = route('DELETE', '/models/:model')
const cancel = route('POST', '/models/:model/runs/:run')
const file = route('GET', '/files/:path*')
const router = new Router([models, model, remove, cancel, file])

test.each([
  ['GET', '/models', models, {}],
  ['HEAD', '/models', models, {}],
  ['GET', '/models/demo', model, { model: 'demo' }],
  ['DELETE', '/models/demo', remove, { model: 'demo' }],
  ['GET', '/models/org%2Fname', model, { model: 'org/name' }],
  ['GET', '/models/%C3%A4', model, { model: 'ä' }],
  ['GET', '/files/a', file, { path: 'a' }],
  ['GET', '/files/a/b%2Fc/%C3%A4', file, { path: 'a/b/c/ä' }],
  ['POST', '/models/a/runs/b', cancel, { model: 'a', run: 'b' }],
])('%s %s', (method, path, found, params) => {
  const match = router.find(method, path)
  expect(match.route).toBe(found)
  expect(match.params).toEqual(params)
})

const NOWHERE = ['/', '', '/model', '/models/', '/models/a/b', '/models/%', '/models/%E0%A4%A', '//models', '/MODELS']
test.each([...NOWHERE, '/files', '/files/', '/files/a/', '/files//a', '/files/a/%'])(
  'there is nothing at %j',
  async (path) => {
    await failure(() => router.find('GET', path), 'ERR_ROUTE')
    expect(router.methodsAt(path)).toEqual([])
  },
)

test('another method is told which there are', async () => {
  const { details } = await failure(() => router.find('PUT', '/models/demo'), 'ERR_METHOD', /GET, HEAD, DELETE/)
  expect(details).toEqual({ methods: ['GET', 'HEAD', 'DELETE'] })
})

test('a part named like a property of every object is a name like any other', () => {
  expect({ ...router.find('GET', '/models/__proto__').params }).toEqual({ model: '__proto__' })
})
