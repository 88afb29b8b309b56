// Providers that fail, as the SDKs' users see them. Two stand behind weir: the first does what a test says, by
// aimock's chaos; the second is its fallback, knows one model of another name, and is given a key of its own.

import { after, before, beforeEach, describe, test } from 'node:test'
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SDKS, TEXT, freePorts, freshId, recorder, startAimock, startWeir, stop, stopWeir } from './support.mjs'

const SECOND_TEXT = 'The second one answers: every word of it, from the first to the very last.'
const KEYS = { first: 'sk-first-canary-81c2', second: 'sk-second-canary-5d07', caller: 'sk-caller-canary-e6b4' }

const dir = mkdtempSync(join(tmpdir(), 'weir-clients-failing-'))
const logFile = join(dir, 'access.log')
let aimocks, first, second, weir, ports

// What a provider sees: everything goes on to its aimock, and the answer back with a name for the request.
class Provider {
    seen = []
    cutRate = 0 // of the answers, which end somewhere in the middle
    constructor(name) { this.name = name }
    async listen(port, aimockPort) {
        this.server = http.createServer((request, response) => {
            const body = []
            request.on('data', (bytes) => body.push(bytes))
            request.on('end', () => {
                const sent = { headers: request.headers, raw: request.rawHeaders.join('\n'), url: request.url,
                    body: JSON.parse(Buffer.concat(body)) }
                this.seen.push(sent)
                this.#pass(request, Buffer.concat(body), response, aimockPort)
            })
        })
        this.server.listen(port, '127.0.0.1')
        await once(this.server, 'listening')
    }
    #pass({ method, url, headers }, body, response, port) {
        const id = `req-${this.name}-${this.seen.length}`
        const on = http.request({ port, method, path: url, headers }, (answer) => {
            response.writeHead(answer.statusCode, { ...answer.headers, 'x-request-id': id, 'request-id': id })
            answer.on('error', () => response.destroy())
            if (Math.random() < this.cutRate) this.#cut(answer, response)
            else answer.pipe(response)
            answer.on('close', () => { if (!answer.complete) response.destroy() })
        })
        on.on('error', () => response.destroy())
        on.end(body)
    }
    #cut(answer, response) {
        let left = Math.floor(Math.random() * 600)
        answer.on('data', (bytes) => {
            if (response.destroyed) return
            const isLast = bytes.length >= left
            response.write(bytes.subarray(0, left), () => { if (isLast) response.destroy() })
            left -= Math.min(left, bytes.length)
        })
        answer.on('end', () => response.destroy())
    }
    close() {
        this.server?.closeAllConnections()
        this.server?.close()
    }
}

function configuration() {
    const key = (dialect, name) => (dialect === 'openai' ? `{Authorization: "Bearer ${KEYS[name]}"}`
        : `{x-api-key: ${KEYS[name]}}`)
    const upstream = (name, dialect, port, more) =>
        `  ${name}-${dialect}: {url: "http://127.0.0.1:${port}", dialect: ${dialect}, ${more}}`
    const model = { openai: 'gpt-4o', anthropic: 'claude-any' }
    const ofDialect = (dialect) => `
${upstream('second', dialect, ports.second, `models: {${model[dialect]}: second-model},
    headers: {set: ${key(dialect, 'second')}, remove: [x-aimock-chaos-drop]}`)}
${upstream('keyless', dialect, ports.second, `models: {${model[dialect]}: second-model}`)}
${upstream('limited', dialect, ports.first, `headers: {set: ${key(dialect, 'first')}}`)}
${upstream('asked', dialect, ports.first, `breaker: false, headers: {set: ${key(dialect, 'first')}}`)}
${upstream('own', dialect, ports.first, 'retry: false')}
${upstream('cut', dialect, ports.first, `headers: {set: ${key(dialect, 'first')}}, breaker: {consecutive_failures: 6}`)}
${upstream('mixed', dialect, ports.first, 'breaker: {min_requests: 1000, consecutive_failures: 1000}')}
${upstream('calm', dialect, ports.first, 'retry: false, breaker: false')}
${upstream('paused', dialect, ports.first, 'retry: false')}
${upstream('dead', dialect, ports.dead, `retry: false,
    breaker: {consecutive_failures: 1, open: {base: 100s, jitter: 0%}}`)}
${upstream('brief', dialect, ports.dead, `retry: false,
    breaker: {consecutive_failures: 1, open: {base: 30s, jitter: 0%}}`)}`
    const route = (name, dialect, more = '') =>
        `      - {path: /${name}/${dialect}, upstream: ${name}-${dialect}, strip_prefix: true${more}}`
    const routesOf = (dialect) => `
${route('limited', dialect, `, fallback: [second-${dialect}]`)}
${route('asked', dialect, `, fallback: [second-${dialect}]`)}
${route('own', dialect, `, fallback: [keyless-${dialect}]`)}
${route('cut', dialect, `, fallback: [second-${dialect}]`)}
${route('mixed', dialect, `, fallback: [second-${dialect}]`)}
${route('calm', dialect)}
${route('paused', dialect)}
${route('dead', dialect)}
${route('brief', dialect, `, fallback: [second-${dialect}]`)}
      - {path: /models, models: ["${model[dialect].split('-')[0]}-*"], upstream: calm-${dialect}, strip_prefix: true}`
    return `version: 1
admin: {address: 127.0.0.1:${ports.admin}}
metrics: {address: 127.0.0.1:${ports.metrics}}
log: {access: ${logFile}, level: info}
upstreams:${ofDialect('openai')}${ofDialect('anthropic')}
listeners:
  main:
    address: 127.0.0.1:${ports.main}
    routes:${routesOf('openai')}${routesOf('anthropic')}
      - {path: /models, models: [second-model], upstream: second-openai, strip_prefix: true}
`
}

// What the first does from now on; {} is nothing but answer.
async function chaos(rates) {
    const answer = await fetch(`http://127.0.0.1:${ports.firstMock}/__aimock/chaos`,
        { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(rates) })
    assert.ok(answer.ok, await answer.text())
}

async function metric(name) {
    const text = await (await fetch(`http://127.0.0.1:${ports.metrics}/metrics`)).text()
    return text.split('\n').filter((line) => line.startsWith(`${name}{`))
        .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0)
}

describe('providers that fail', () => {
    before(async () => {
        ports = await freePorts('firstMock', 'secondMock', 'first', 'second', 'dead', 'main', 'admin', 'metrics')
        aimocks = [await startAimock(ports.firstMock, 'fixtures.json', '--latency', '2'),
            await startAimock(ports.secondMock, 'fixtures-second.json', '--latency', '2')]
        first = new Provider('first')
        await first.listen(ports.first, ports.firstMock)
        second = new Provider('second')
        await second.listen(ports.second, ports.secondMock)
        weir = await startWeir(dir, configuration(), ports.metrics)
    })

    after(async () => {
        const log = weir ? readFileSync(logFile, 'utf8') + weir.text : ''
        for (const key of Object.values(KEYS)) assert.ok(!log.includes(key), 'a key stands in the log')
        for (const aimock of aimocks ?? []) await stop(aimock)
        first?.close()
        second?.close()
        await stopWeir(weir)
        rmSync(dir, { recursive: true, force: true })
    })

    beforeEach(async () => {
        await chaos({})
        first.seen = []
        first.cutRate = 0
        second.seen = []
    })

    for (const sdk of SDKS) {
        const connect = (name, options) => sdk.client(ports.main, `/${name}/${sdk.name}`,
            { apiKey: KEYS.caller, logLevel: 'off', ...options })

        // One call, whole or streamed, to its text.
        const read = async (client, streamed) => {
            if (!streamed) return sdk.text(await sdk.ask(client))
            let text = ''
            for await (const event of await sdk.stream(client)) text += sdk.delta(event)
            return text
        }
        const outcome = (client, streamed) => read(client, streamed).catch((error) => error)
        const raised = (error, name, status, reason) => {
            assert.equal(error.constructor, sdk.errors[name], `${error.constructor?.name}: ${error.message ?? error}`)
            assert.equal(error.status, status)
            if (reason) assert.equal(error.headers.get('weir-reason'), reason)
        }
        const ofModel = (model) => ({ body }) => body.model === model
        const holds = (key) => ({ raw }) => raw.includes(key)

        describe(sdk.name, () => {
            test('429 from the first: every call succeeds, by the second', async () => {
                await chaos({ rateLimitRate: 1 })
                const { statuses, spy } = recorder()
                const client = connect('limited', { fetch: spy })
                for (const streamed of [false, true, false, true])
                    assert.equal(await read(client, streamed), SECOND_TEXT)
                const texts = await Promise.all(Array.from({ length: 40 }, (_, n) => read(client, n % 2 === 1)))
                assert.deepEqual(texts, Array(40).fill(SECOND_TEXT))
                assert.deepEqual([...new Set(statuses)], [200], 'no SDK had to try again')
                assert.equal(second.seen.length, 44)
                assert.ok(first.seen.length >= 1 && first.seen.length < 44, 'the pause it asked for is kept')
            })

            test('each gets its own key and model, nobody the caller\'s', async () => {
                await chaos({ rateLimitRate: 1 })
                const client = connect('asked')
                for (const streamed of [false, true]) assert.equal(await read(client, streamed), SECOND_TEXT)
                assert.deepEqual([first.seen.length, second.seen.length], [2, 2])
                assert.ok(first.seen.every(holds(KEYS.first)) && second.seen.every(holds(KEYS.second)))
                assert.ok(!second.seen.some(holds(KEYS.first)) && !first.seen.some(holds(KEYS.second)))
                for (const { raw } of [...first.seen, ...second.seen]) assert.ok(!raw.includes(KEYS.caller), raw)
                assert.ok(second.seen.every(ofModel('second-model')) && !first.seen.some(ofModel('second-model')))
                for (const [n, { body }] of first.seen.entries())
                    assert.deepEqual({ ...body, model: 'second-model' }, second.seen[n].body, 'the rest is kept')
            })

            test('the caller\'s own key goes to the first only', async () => {
                await chaos({ rateLimitRate: 1 })
                assert.equal(await read(connect('own'), false), SECOND_TEXT)
                assert.ok(first.seen.length === 1 && first.seen.every(holds(KEYS.caller)))
                assert.ok(second.seen.length === 1 && !second.seen.some(holds(KEYS.caller)))
                for (const name of ['authorization', 'x-api-key'])
                    assert.equal(second.seen[0].headers[name], undefined)
            })

            test('the first hangs up: an error, or the second; soon only the second', async () => {
                await chaos({ disconnectRate: 1 })
                const client = connect('cut', { maxRetries: 0 })
                const got = []
                for (let call = 0; call < 16; ++call) got.push(await outcome(client, call % 2 === 1))
                for (const one of got)
                    if (one !== SECOND_TEXT) raised(one, 'InternalServerError', 502, 'reset')
                assert.deepEqual(got.slice(6), Array(10).fill(SECOND_TEXT), 'the breaker is open')
                assert.equal(first.seen.length, 6)
            })

            test('hung up on, an SDK tries again by itself', async () => {
                await chaos({ disconnectRate: 1 })
                const { statuses, spy } = recorder()
                for (const streamed of [false, true])
                    raised(await outcome(connect('calm', { maxRetries: 1, fetch: spy }), streamed),
                        'InternalServerError', 502, 'reset')
                assert.deepEqual(statuses, [502, 502, 502, 502])
                await chaos({})
                assert.equal(await read(connect('calm'), true), TEXT)
            })

            for (const rate of [0.3, 0.6])
                test(`each in ${rate} of the calls: whole, or an error of the SDK's`, async () => {
                    await chaos({ rateLimitRate: rate, disconnectRate: rate, dropRate: rate })
                    const client = connect('mixed', { maxRetries: rate < 0.5 ? 1 : 0 })
                    const call = async (n) => {
                        const got = []
                        for (let i = 0; i < 12; ++i) got.push(await outcome(client, (n + i) % 2 === 1))
                        return got
                    }
                    const all = (await Promise.all(Array.from({ length: 8 }, (_, n) => call(n)))).flat()
                    for (const one of all)
                        if (one !== TEXT && one !== SECOND_TEXT) raised(one, 'InternalServerError', 502, 'reset')
                    assert.ok(all.includes(SECOND_TEXT))
                    assert.equal(await metric('weir_in_flight'), 0)
                })

            test('cut anywhere, no part of an answer is taken for the whole', async () => {
                first.cutRate = 0.5
                const client = connect('calm', { maxRetries: 0 })
                const call = async (n) => {
                    const got = []
                    for (let i = 0; i < 12; ++i) got.push(await outcome(client, (n + i) % 3 !== 0))
                    return got
                }
                const all = (await Promise.all(Array.from({ length: 8 }, (_, n) => call(n)))).flat()
                for (const one of all) assert.ok(one === TEXT || one instanceof Error, `${one}`)
                assert.ok(all.includes(TEXT) && all.some((one) => one instanceof sdk.errors.APIError))
                const others = all.filter((one) => one instanceof Error && !(one instanceof sdk.errors.APIError))
                // of half an event or a JSON text that breaks off the SDKs say so in their own way
                for (const one of others) assert.match(`${one}`, /JSON|terminated/)
            })

            test('an answer has the name for the request of who gives it', async () => {
                const name = async (client) => (await sdk.ask(client))._request_id
                assert.equal(await name(connect('calm')), 'req-first-1')
                await chaos({ dropRate: 1 })
                const error = await outcome(connect('calm', { maxRetries: 0 }), false)
                raised(error, 'InternalServerError', 500)
                assert.equal(error.requestID, 'req-first-2')
                assert.equal(await name(connect('mixed')), 'req-second-1')
                const stream = await sdk.stream(connect('mixed')).withResponse()
                assert.equal(stream.request_id, 'req-second-2')
                stream.data.controller.abort()
            })

            test('a breaker that is open is told at once, and not tried again', async () => {
                const { statuses, spy } = recorder()
                const id = freshId('open')
                const client = connect('dead', { fetch: spy, defaultHeaders: { 'X-Correlation-ID': id } })
                raised(await outcome(connect('dead', { maxRetries: 0 }), false),
                    'InternalServerError', 502, 'connect_failed')
                for (const streamed of [false, true]) {
                    const error = await outcome(client, streamed)
                    raised(error, sdk.unavailable, 503, 'breaker_open')
                    assert.match(error.message, /breaker|upstream|failing/i)
                    assert.equal(error.requestID, id)
                    const { type, code } = sdk.said(error)
                    assert.deepEqual([type, code],
                        [{ openai: 'api_error', anthropic: 'overloaded_error' }[sdk.name], 'breaker_open'])
                    assert.ok(Number(error.headers.get('retry-after')) > 60)
                }
                assert.deepEqual(statuses, [503, 503], 'x-should-retry says that it is no use')
            })

            test('behind a breaker that is open the second answers', async () => {
                const { statuses, spy } = recorder()
                const client = connect('brief', { fetch: spy })
                const texts = await Promise.all(Array.from({ length: 20 }, (_, n) => read(client, n % 2 === 1)))
                assert.deepEqual(texts, Array(20).fill(SECOND_TEXT))
                assert.deepEqual([...new Set(statuses)], [200], 'the second is asked at once')
            })

            test('an SDK waits as long as the first wants to be left alone', async () => {
                await chaos({ rateLimitRate: 1 })
                raised(await outcome(connect('paused', { maxRetries: 0 }), false), 'RateLimitError', 429)
                assert.equal(first.seen.length, 1)
                await chaos({})
                const { statuses, spy } = recorder()
                const client = connect('paused', { fetch: spy })
                assert.equal(await read(client, true), TEXT)
                assert.deepEqual(statuses, [503, 200], 'the time that it was told is right')
                assert.equal(first.seen.length, 2)
            })

            test('while it is paused the answer says so', async () => {
                await chaos({ rateLimitRate: 1 })
                await outcome(connect('paused', { maxRetries: 0 }), false)
                const error = await outcome(connect('paused', { maxRetries: 0 }), true)
                raised(error, sdk.unavailable, 503, 'throttled')
                assert.match(error.message, /pause/)
                assert.equal(error.headers.get('retry-after'), '1')
                assert.ok(Number(error.headers.get('retry-after-ms')) <= 1000)
                assert.equal(first.seen.length, 1)
            })

            test('by its model a call finds its upstream, all at one address', async () => {
                const client = sdk.client(ports.main, '/models', { maxRetries: 0 })
                for (const model of ['gpt-4o', 'claude-any'])
                    assert.equal(sdk.text(await sdk.ask(client, {}, model)), TEXT)
                assert.equal(sdk.text(await sdk.ask(client, {}, 'second-model')), SECOND_TEXT)
                assert.deepEqual(first.seen.map(({ body }) => body.model), ['gpt-4o', 'claude-any'])
                assert.deepEqual(second.seen.map(({ body }) => body.model), ['second-model'])
                const error = await sdk.ask(client, {}, 'nobody-knows').catch((reason) => reason)
                raised(error, 'NotFoundError', 404, 'no_route')
            })
        })
    }
})
