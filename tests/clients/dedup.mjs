// What the SDKs' users get of dedup: a call made twice costs one. No SDK sends a key by itself, so that calls are
// known by their fingerprint; with an Idempotency-Key by that. Every test is a tenant of its own.

import { after, before, beforeEach, describe, test } from 'node:test'
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SDKS, TEXT, freePorts, freshId, recorder, startAimock, startWeir, stop, stopWeir, until } from './support.mjs'

const CALLERS = 10
const COST = 23 // tokens of one answer
const FIRST_WORD = 'Water'
const SHORT_MS = 250

const dir = mkdtempSync(join(tmpdir(), 'weir-clients-dedup-'))
let aimock, provider, weir, ports

class Latch {
    constructor() { this.opened = new Promise((resolve) => { this.open = resolve }) }
}

// Answers by aimock, but no sooner than a test lets it: the head waits for one latch, what follows the first word for
// another.
class Provider {
    async listen(port, aimockPort) {
        this.aimockPort = aimockPort
        this.server = http.createServer((request, response) => {
            this.#answer(request, response).catch(() => response.destroy())
        })
        this.server.listen(port, '127.0.0.1')
        await once(this.server, 'listening')
    }
    reset() {
        for (const latch of [this.head, this.rest]) latch?.open()
        this.seen = []
        this.cancelled = 0
        this.failures = 0 // answers that are a 500, from now on
        this.head = this.rest = undefined
    }
    async #answer(request, response) {
        const body = Buffer.concat(await request.toArray())
        this.seen.push(JSON.parse(body))
        const { head, rest } = this
        response.on('close', () => { if (!response.writableFinished) this.cancelled += 1 })
        await head?.opened
        if (this.failures > 0) {
            this.failures -= 1
            response.writeHead(500, { 'Content-Type': 'application/json' }).end('{"error": {"message": "for once"}}')
            return
        }
        const { method, url: path, headers } = request
        const onward = http.request({ port: this.aimockPort, method, path, headers }).end(body)
        const [answer] = await once(onward, 'response')
        response.writeHead(answer.statusCode, answer.headers)
        if (rest) await this.#stopAfterFirstWord(answer, response, rest)
        else for await (const bytes of answer) response.write(bytes)
        response.end()
    }
    async #stopAfterFirstWord(answer, response, rest) {
        const whole = Buffer.concat(await answer.toArray())
        const end = whole.indexOf('\n\n', whole.indexOf(FIRST_WORD)) + 2
        response.write(whole.subarray(0, end))
        await rest.opened
        response.write(whole.subarray(end))
    }
    close() {
        this.reset()
        this.server?.closeAllConnections()
        this.server?.close()
    }
}

function configuration() {
    const ofDialect = (dialect) => `
  ${dialect}: {url: "http://127.0.0.1:${ports.provider}", dialect: ${dialect}, retry: false,
    breaker: false${dialect === 'openai' ? ', usage: {inject: true}' : ''}}`
    const routeOf = (dialect) => `
      - {path: /${dialect}, upstream: ${dialect}, strip_prefix: true, dedup: calls, limits: [tokens]}`
    return `version: 1
admin: {address: 127.0.0.1:${ports.admin}}
metrics: {address: 127.0.0.1:${ports.metrics}, tenant_series: 1000}
limits:
  tokens: {algorithm: token_bucket, unit: llm_tokens, rate: 24/d, burst: 10000}
dedup:
  calls: {key: [{header: Idempotency-Key}, fingerprint], window: 10m}
upstreams:${ofDialect('openai')}${ofDialect('anthropic')}
listeners:
  main:
    address: 127.0.0.1:${ports.main}
    routes:${routeOf('openai')}${routeOf('anthropic')}
`
}

async function metrics() {
    const text = await (await fetch(`http://127.0.0.1:${ports.metrics}/metrics`)).text()
    return [...text.matchAll(/^(\w+)(\{.*\})? (\d+)$/gm)]
        .map(([, name, labels = '', value]) => ({ name, labels, value: Number(value) }))
}

const inFlight = (count) => until(`${count} in flight`, async () => (await metrics())
    .filter(({ name }) => name === 'weir_in_flight').reduce((sum, { value }) => sum + value, 0) === count, 20_000)

async function results() {
    const found = {}
    for (const { name, labels, value } of await metrics())
        if (name === 'weir_dedup_total') found[/result="(\w+)"/.exec(labels)[1]] = value
    return found
}

describe('calls made twice', () => {
    before(async () => {
        ports = await freePorts('aimock', 'provider', 'main', 'admin', 'metrics')
        aimock = await startAimock(ports.aimock, 'fixtures.json', '--latency', '2')
        provider = new Provider()
        await provider.listen(ports.provider, ports.aimock)
        weir = await startWeir(dir, configuration(), ports.metrics)
    })

    after(async () => {
        provider?.close()
        await stop(aimock)
        await stopWeir(weir)
        rmSync(dir, { recursive: true, force: true })
    })

    let earlier, tenant
    beforeEach(async () => {
        provider.reset()
        await inFlight(0)
        earlier = await results()
        tenant = freshId('tenant')
    })

    // What dedup counted since the test began, once it is all counted.
    const counted = async (wanted) => {
        let seen
        await until('the counts', async () => {
            const now = await results()
            seen = Object.fromEntries(Object.entries(now).map(([name, value]) => [name, value - (earlier[name] ?? 0)])
                .filter(([, value]) => value > 0))
            return Object.entries(wanted).every(([name, value]) => seen[name] === value)
        }, 10_000).catch(() => {})
        assert.deepEqual(seen, wanted)
    }

    for (const sdk of SDKS) {
        const connect = (options = {}, as = tenant) => sdk.client(ports.main, `/${sdk.name}`,
            { defaultHeaders: { 'X-Tenant-ID': as }, logLevel: 'off', maxRetries: 0, ...options })
        const otherModel = { openai: 'gpt-4o-mini', anthropic: 'claude-other' }[sdk.name]

        // One call to its text and whether weir says that it is an old one; `saw` is told each piece.
        const read = async (client, streamed, { options, model, saw = () => {} } = {}) => {
            const { data, response } = await (streamed ? sdk.stream : sdk.ask)(client, options, model).withResponse()
            let text = streamed ? '' : sdk.text(data)
            if (streamed)
                for await (const event of data) {
                    const delta = sdk.delta(event)
                    text += delta
                    if (delta) saw(delta)
                }
            return { text, isReplay: response.headers.get('idempotent-replayed') === 'true' }
        }
        const ran = { text: TEXT, isReplay: false }
        const replayed = { text: TEXT, isReplay: true }
        const keyed = (key) => ({ headers: { 'Idempotency-Key': key } })
        const failure = (call) => call.then(() => assert.fail('it did not fail'), (error) => error)

        // By the metrics, and by what the limit has left: another call finds as much less than a new tenant's does.
        const chargedFor = async (calls) => {
            await inFlight(0)
            const used = (await metrics()).filter(({ name, labels }) =>
                /^weir_llm_tokens(_estimated)?_total$/.test(name) && labels.includes(`tenant="${tenant}"`))
            assert.equal(used.reduce((sum, { value }) => sum + value, 0), calls * COST)
            const left = async (as) => {
                const { response } = await sdk.ask(connect({}, as), {}, otherModel).withResponse()
                return Number(response.headers.get('x-ratelimit-remaining-tokens'))
            }
            assert.equal(await left(freshId('new')) - await left(tenant), calls * COST)
        }
        const ranOnce = async () => {
            assert.equal(provider.seen.length, 1)
            await chargedFor(1)
            assert.equal(provider.cancelled, 0)
        }

        // The SDK's own fetch, and when it gave up a try.
        const impatient = () => {
            const gaveUp = new Latch()
            let tries = 0
            const spy = async (url, init) => {
                tries += 1
                return fetch(url, init).catch((error) => { gaveUp.open(); throw error })
            }
            return { gaveUp: gaveUp.opened, tries: () => tries,
                client: connect({ timeout: SHORT_MS, maxRetries: 8, fetch: spy }) }
        }

        describe(sdk.name, () => {
            for (const streamed of [false, true]) {
                const how = streamed ? ', streamed' : ''

                for (const options of streamed ? [undefined] : [undefined, keyed('a-key')])
                    test(`a try that timed out: its retry joins${how}${options ? ', keyed' : ''}`, async () => {
                        provider.head = new Latch()
                        const { client, gaveUp, tries } = impatient()
                        const call = read(client, streamed, { options })
                        await gaveUp
                        await inFlight(2)
                        provider.head.open()
                        assert.equal((await call).text, TEXT)
                        assert.ok(tries() >= 2)
                        await ranOnce()
                    })

                test(`a try that timed out: the answer waits for its retry${how}`, async () => {
                    provider.head = new Latch()
                    const { client, gaveUp, tries } = impatient()
                    const call = read(client, streamed)
                    await gaveUp
                    provider.head.open()
                    await inFlight(0)
                    assert.deepEqual(await call, replayed)
                    assert.ok(tries() >= 2)
                    await ranOnce()
                })

                test(`equal calls at once are one${how}`, async () => {
                    provider[streamed ? 'rest' : 'head'] = new Latch()
                    const pieces = Array.from({ length: CALLERS }, () => [])
                    const calls = pieces.map((own) => read(connect(), streamed, { saw: (delta) => own.push(delta) }))
                    await inFlight(CALLERS)
                    if (streamed) await until('the first word', async () => pieces.every((own) => own.length > 0))
                    for (const own of pieces) assert.ok(!own.join('').includes(TEXT), 'the provider is not done')
                    provider[streamed ? 'rest' : 'head'].open()
                    assert.deepEqual(await Promise.all(calls), Array(CALLERS).fill(ran))
                    await counted({ first: 1, shared: CALLERS - 1 })
                    await ranOnce()
                })

                test(`the same call later gets the same answer, another one runs${how}`, async () => {
                    assert.deepEqual(await read(connect(), streamed), ran)
                    await inFlight(0)
                    for (let time = 0; time < 3; ++time) assert.deepEqual(await read(connect(), streamed), replayed)
                    const raw = await (streamed ? sdk.stream : sdk.ask)(connect()).asResponse()
                    assert.equal(raw.headers.get('idempotent-replayed'), 'true')
                    assert.equal(raw.status, 200)
                    await raw.text()
                    assert.equal(provider.seen.length, 1)
                    assert.deepEqual(await read(connect(), !streamed), ran, 'streamed or not is another body')
                    assert.deepEqual(await read(connect(), streamed, { model: otherModel }), ran)
                    assert.equal(provider.seen.length, 3)
                    await counted({ first: 3, replayed: 4 })
                })

                test(`a failure is not kept: the retry runs${how}`, async () => {
                    provider.failures = 1
                    const { statuses, spy } = recorder()
                    assert.deepEqual(await read(connect({ maxRetries: 2, fetch: spy }), streamed), ran)
                    assert.deepEqual(statuses, [500, 200])
                    assert.equal(provider.seen.length, 2)
                    await counted({ first: 2, forgotten: 1 })
                })

                test(`of ${CALLERS} that share a failure the retries are one call${how}`, async () => {
                    provider.failures = 1
                    provider.head = new Latch()
                    const { statuses, spy } = recorder()
                    const client = connect({ maxRetries: 2, fetch: spy })
                    const calls = Array.from({ length: CALLERS }, () => read(client, streamed))
                    await inFlight(CALLERS)
                    provider.head.open()
                    for (const { text } of await Promise.all(calls)) assert.equal(text, TEXT)
                    for (const status of [500, 200])
                        assert.equal(statuses.filter((one) => one === status).length, CALLERS)
                    assert.equal(provider.seen.length, 2)
                })

                test(`a key used for another call raises UnprocessableEntityError${how}`, async () => {
                    const options = keyed('another-key')
                    assert.deepEqual(await read(connect(), streamed, { options }), ran)
                    const { statuses, spy } = recorder()
                    const client = connect({ maxRetries: 2, fetch: spy })
                    const error = await failure(read(client, streamed, { options, model: otherModel }))
                    assert.equal(error.constructor, sdk.errors.UnprocessableEntityError, `${error}`)
                    assert.equal(error.headers.get('weir-reason'), 'key_mismatch')
                    assert.equal(sdk.said(error).type, 'invalid_request_error')
                    assert.deepEqual(statuses, [422], 'it is not tried again')
                    await inFlight(0)
                    assert.deepEqual(await read(connect(), streamed, { options }), replayed)
                    assert.equal(provider.seen.length, 1)
                    await counted({ first: 1, mismatch: 1, replayed: 1 })
                })
            }

            for (const joins of [true, false])
                test(`a stream left in its middle ${joins ? 'can be joined' : 'is there for a retry'}`, async () => {
                    provider.rest = new Latch()
                    const stream = await sdk.stream(connect())
                    for await (const event of stream) if (sdk.delta(event)) break
                    stream.controller.abort()
                    if (!joins) {
                        provider.rest.open()
                        await inFlight(0)
                        assert.deepEqual(await read(connect(), true), replayed)
                    } else {
                        const first = new Latch()
                        const call = read(connect(), true, { saw: first.open })
                        await first.opened
                        provider.rest.open()
                        assert.deepEqual(await call, ran)
                    }
                    await ranOnce()
                })
        })
    }
})
