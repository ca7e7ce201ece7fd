import { NotFoundError } from 'openai'
import { expect, it } from 'vitest'
import { openaiOf } from '../../support/openai.js'
import { runningServers } from '../../support/server.js'

const start = runningServers()

it('lists the models, with what they can take', async () => {
  const server = await start()
  const { data } = await openaiOf(server).models.list()
  expect(data).toEqual([
    {
      id: 'demo',
      object: 'model',
      created: expect.any(Number),
      owned_by: 'gorgon',
      max_model_len: server.engine.info.context,
    },
  ])
})

it('finds one by its name', async () => {
  const client = openaiOf(await start())
  expect(await client.models.retrieve('demo')).toMatchObject({ id: 'demo', object: 'model' })
  await expect(client.models.retrieve('gpt-5')).rejects.toThrow(NotFoundError)
})

it('lists several under the names they were given, those still loading among them', async () => {
  const { engine } = await start()
  const loading = new Promise<typeof engine>(() => undefined)
  const client = openaiOf(await start({ engine: { 'org/small': engine, large: loading } }))
  const { data } = await client.models.list()
  expect(data.map(({ id }) => id)).toEqual(['org/small', 'large'])
  expect(data[1]).not.toHaveProperty('max_model_len')
  expect(await client.models.retrieve('org/small')).toMatchObject({ id: 'org/small' })
})

it('finds a name with a slash that the client did not encode', async () => {
  const { engine } = await start()
  const { url } = await start({ engine: { 'org/small': engine } })
  expect(await (await fetch(`${url}/v1/models/org/small`)).json()).toMatchObject({ id: 'org/small' })
  expect((await fetch(`${url}/v1/models/org/large`)).status).toBe(404)
})
