// The SDKs people use, through weir, against aimock: node --test run.mjs
// WEIR_BIN names the binary (default: build/weir of this checkout).

import { after, before, describe, test } from 'node:test'
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CHUNK_GAP_MS, KEY, QUESTION, SDKS, TEXT, freePorts, freshId, recorder, startAimock, startWeir, stop, stopWeir,
    until } from './support.mjs'
import './dedup.mjs'
import './failing.mjs'

const dir = mkdtempSync(join(tmpdir(), 'weir-clients-'))
const accessLog = join(dir, 'access.log')
let aimock, gate, broken, weir, ports

// An upstream that sends one SSE event, then waits until the client has said that it has it. A proxy that holds
// an event back would wait for ever: no clock is needed to show that chunks come through one by one.
class Gate {
    #waiting
    sent = 0
    pass() { this.#waiting?.() }
    async listen(port) {
        this.server = http.createServer(async (request, response) => {
            const anthropic = request.url.endsWith('/messages')
            request.resume()
            response.writeHead(200, { 'Content-Type': 'text/event-stream' })
            this.sent = 0
            for (const text of (anthropic ? anthropicEvents : openaiEvents)(6)) {
                const acknowledged = new Promise((resolve) => { this.#waiting = resolve })
                response.write(text)
                this.sent += 1
                await acknowledged
            }
            response.end()
        })
        this.server.listen(port, '127.0.0.1')
        await once(this.server, 'listening')
    }
}

// An upstream whose streams come to no good end. The first segment of the path says to which: /cut (between two
// events), /half (within one), /stall, /short (a clean end, but without the last event).
class Broken {
    async listen(port) {
        this.server = http.createServer((request, response) => {
            const [, how] = request.url.split('/')
            const events = request.url.endsWith('/messages') ? [...anthropicStart(), ...anthropicEvents(3)]
                : request.url.endsWith('/responses') ? responsesEvents(3) : openaiEvents(3)
            const last = events.pop()
            request.resume()
            response.writeHead(200,
                { 'Content-Type': 'text/event-stream', 'request-id': 'req-up', 'x-request-id': 'req-up' })
            response.write(events.join('') + (how === 'half' ? last.slice(0, last.length - 20) : ''), () => {
                if (how === 'short') response.end(last)
                if (how === 'cut' || how === 'half') response.socket.destroy()
            })
        })
        this.server.listen(port, '127.0.0.1')
        await once(this.server, 'listening')
    }
}

function anthropicStart() {
    const message = { id: 'm', type: 'message', role: 'assistant', content: [], model: 'm', stop_reason: null,
        stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 } }
    return [{ type: 'message_start', message },
        { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } }]
        .map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
}

function responsesEvents(count) {
    const delta = (index) => ({ type: 'response.output_text.delta', item_id: 'i', output_index: 0, content_index: 0,
        sequence_number: index + 1, delta: `part${index}` })
    return Array.from({ length: count }, (_, index) => delta(index))
        .map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
}

function openaiEvents(count) {
    return Array.from({ length: count }, (_, index) => `data: ${JSON.stringify({
        id: 'c', object: 'chat.completion.chunk', created: 1, model: 'm',
        choices: [{ index: 0, delta: { content: `part${index}` }, finish_reason: null }],
    })}\n\n`)
}

function anthropicEvents(count) {
    return Array.from({ length: count }, (_, index) => {
        const event = { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: `part${index}` } }
        return `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`
    })
}

function configuration() {
    const route = (path, upstream, limits) =>
        `      - {path: ${path}, upstream: ${upstream}, strip_prefix: ${path !== '/'}, limits: [${limits}]}`
    const upstream = (name, dialect, port, more = '') =>
        `  ${name}-${dialect}: {url: "http://127.0.0.1:${port}", dialect: ${dialect}, ` +
        `retry: false, breaker: false${more}}`
    const ofDialect = (dialect) => `
${upstream('once', dialect, ports.aimock)}
${upstream('dead', dialect, ports.dead)}
${upstream('broken', dialect, ports.broken, ', timeouts: {idle: 500ms}')}`
    const routesOfDialect = (dialect) => `
${route(`/once/${dialect}`, `once-${dialect}`, '')}
${route(`/dead/${dialect}`, `dead-${dialect}`, '')}
${route(`/broken/${dialect}`, `broken-${dialect}`, '')}
${route(`/limited/${dialect}`, `once-${dialect}`, 'wide, narrow')}
${route(`/refused/${dialect}`, `once-${dialect}`, 'shut, closed')}`
    return `version: 1
server: {max_body: 1MiB}
admin: {address: 127.0.0.1:${ports.admin}}
metrics: {address: 127.0.0.1:${ports.metrics}}
log: {access: ${accessLog}, level: info}
limits:
  wide: {algorithm: sliding_window, limit: 1000, window: 1h}
  narrow: {algorithm: token_bucket, rate: 20/m, burst: 1}
  shut: {algorithm: token_bucket, rate: 20/m, tenants: {shut: {rate: 0/s}}}
  closed: {algorithm: token_bucket, rate: 0/s}
  tokens: {algorithm: token_bucket, unit: llm_tokens, rate: 24/d, burst: 10000}
upstreams:${ofDialect('openai')}${ofDialect('anthropic')}
  as-openai: {url: "http://127.0.0.1:${ports.aimock}", dialect: openai, usage: {inject: true}}
  as-anthropic: {url: "http://127.0.0.1:${ports.aimock}", dialect: anthropic}
  mock: {url: "http://127.0.0.1:${ports.aimock}"}
  gate: {url: "http://127.0.0.1:${ports.gate}"}
listeners:
  main:
    address: 127.0.0.1:${ports.main}
    routes:
${route('/', 'mock', 'wide')}
${route('/narrow', 'mock', 'wide, narrow')}
${route('/shut', 'mock', 'shut')}
${route('/gate', 'gate', '')}
${route('/openai', 'as-openai', 'tokens')}
${route('/anthropic', 'as-anthropic', 'tokens')}${routesOfDialect('openai')}${routesOfDialect('anthropic')}
  keyed:
    address: 127.0.0.1:${ports.keyed}
    tenant:
      from: [{api_key: Authorization}, {api_key: x-api-key}]
      default: refuse
      api_keys: {${createHash('sha256').update(KEY).digest('hex')}: acme}
    routes:
      - {path: /, upstream: mock}
${route('/openai', 'once-openai', '')}
${route('/anthropic', 'once-anthropic', '')}
`
}

before(async () => {
    ports = await freePorts('aimock', 'gate', 'broken', 'dead', 'main', 'keyed', 'admin', 'metrics')
    gate = new Gate()
    await gate.listen(ports.gate)
    broken = new Broken()
    await broken.listen(ports.broken)
    aimock = await startAimock(ports.aimock, 'fixtures.json', '--latency', `${CHUNK_GAP_MS}`)
    weir = await startWeir(dir, configuration(), ports.metrics)
})

after(async () => {
    await stop(aimock)
    for (const upstream of [gate, broken]) {
        upstream?.server?.closeAllConnections()
        upstream?.server?.close()
    }
    await stopWeir(weir)
    rmSync(dir, { recursive: true, force: true })
})

async function journal(correlationId) {
    const entries = await (await fetch(`http://127.0.0.1:${ports.aimock}/__aimock/journal`)).json()
    return entries.filter((entry) => entry.headers['x-correlation-id'] === correlationId)
}

// What a tenant used by weir's metrics, once the count is as wanted.
async function tokensOf(tenant, wanted) {
    let seen
    const read = async () => {
        const text = await (await fetch(`http://127.0.0.1:${ports.metrics}/metrics`)).text()
        seen = {}
        for (const [, family, type, value] of text.matchAll(new RegExp(
            `^weir_llm_tokens(_estimated)?_total\\{[^}]*tenant="${tenant}",type="(\\w+)"\\} (\\d+)$`, 'gm')))
            seen[family ? `estimated ${type}` : type] = Number(value)
        return Object.entries(wanted).every(([type, value]) => seen[type] === value)
    }
    await until('the tokens', read, 10_000).catch(() => {})
    assert.deepEqual(seen, wanted)
}

for (const sdk of SDKS) {
    const connect = (path, { tenant = freshId('tenant'), port = ports.main, ...options } = {}) =>
        sdk.client(port, path, { defaultHeaders: { 'X-Tenant-ID': tenant }, ...options })

    describe(sdk.name, () => {
        test('a plain answer, named on both ways', async () => {
            const id = freshId('plain')
            const { data, response } = await sdk.ask(connect(''), { headers: { 'X-Correlation-ID': id } }).withResponse()
            assert.equal(sdk.text(data), TEXT)
            assert.equal(sdk.tokens(data), 23)
            assert.equal(response.headers.get('x-correlation-id'), id)
            assert.match(response.headers.get('ratelimit-policy'), /^"wide";q=1000;w=3600$/)
            assert.match(response.headers.get('ratelimit'), /^"wide";r=\d+;t=\d+$/)
            assert.equal((await journal(id)).length, 1, 'the upstream saw the request once, under its name')
        })

        test('a request without a name gets one', async () => {
            const { response } = await sdk.ask(connect('')).withResponse()
            const id = response.headers.get('x-correlation-id')
            assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
            assert.equal((await journal(id)).length, 1)
        })

        test('a streamed answer, whole and over time', async () => {
            const id = freshId('stream')
            let spread = 0
            // aimock pauses between chunks. One run in which the first text came a pause before the last shows that
            // nothing was collected; a proxy that collects shows it in no run.
            for (let run = 0; run < 5 && spread < CHUNK_GAP_MS; ++run) {
                const { data, response } =
                    await sdk.stream(connect(''), { headers: { 'X-Correlation-ID': id } }).withResponse()
                assert.equal(response.headers.get('x-correlation-id'), id)
                const parts = []
                for await (const event of data) {
                    const delta = sdk.delta(event)
                    if (delta) parts.push({ delta, at: performance.now() })
                }
                assert.equal(parts.map((part) => part.delta).join(''), TEXT)
                assert.ok(parts.length > 2)
                spread = parts.at(-1).at - parts[0].at
            }
            assert.ok(spread >= CHUNK_GAP_MS, `first and last chunk came ${spread} ms apart`)
        })

        test('each chunk comes before the next one is sent', async () => {
            const stream = await sdk.stream(connect('/gate', { timeout: 60_000, maxRetries: 0 }))
            let got = 0
            for await (const event of stream) {
                assert.equal(sdk.delta(event), `part${got}`)
                got += 1
                assert.equal(gate.sent, got)
                gate.pass()
            }
            assert.equal(got, 6)
        })

        test('a limit raises RateLimitError', async () => {
            const client = connect('/narrow', { maxRetries: 0 })
            const id = freshId('refused')
            assert.equal(sdk.text(await sdk.ask(client)), TEXT)
            // The bucket of one refills in three seconds: some try soon after the first is refused.
            const refusal = await until('a refusal', async () => {
                try {
                    await sdk.ask(client, { headers: { 'X-Correlation-ID': id } })
                } catch (error) {
                    return error
                }
            })
            assert.ok(refusal instanceof sdk.RateLimitError, `${refusal.constructor.name}: ${refusal.message}`)
            assert.equal(refusal.status, 429)
            assert.equal(refusal.headers.get('weir-reason'), 'limit')
            assert.equal(refusal.headers.get('x-correlation-id'), id)
            assert.match(refusal.headers.get('content-type'), /^application\/problem\+json/)
            assert.ok(Number(refusal.headers.get('retry-after')) >= 1)
            assert.ok(Number(refusal.headers.get('retry-after-ms')) > 0)
            assert.match(refusal.headers.get('ratelimit'), /^"narrow";r=0;t=\d+, "wide";r=\d+;t=\d+$/)
        })

        for (const streamed of [false, true])
            test(`its own retry then succeeds${streamed ? ', streamed' : ''}`, async () => {
                const { statuses, spy } = recorder()
                const client = connect('/narrow', { fetch: spy })
                const round = async () => {
                    if (!streamed) return sdk.text(await sdk.ask(client))
                    let text = ''
                    for await (const event of await sdk.stream(client)) text += sdk.delta(event)
                    return text
                }
                for (let call = 0; call < 5 && !statuses.includes(429); ++call) assert.equal(await round(), TEXT)
                assert.deepEqual(statuses.slice(-2), [429, 200], 'refused once, and the retry came in time')
            })

        test('its tokens are counted, answered whole and streamed', async () => {
            const tenant = freshId('tokens')
            const client = connect(`/${sdk.name}`, { tenant })
            const { data, response } = await sdk.ask(client).withResponse()
            assert.equal(sdk.text(data), TEXT)
            assert.equal(response.headers.get('x-ratelimit-limit-tokens'), '10000')
            assert.match(response.headers.get('x-ratelimit-reset-tokens'), /^(\d+h)?(\d+m)?(\d+(\.\d+)?s)?$/)
            await tokensOf(tenant, { input: 9, cached: 0, output: 14 })
            let text = ''
            for await (const event of await sdk.stream(client)) {
                if (sdk.name === 'openai') {
                    assert.notEqual(event.choices.length, 0, 'the chunk that weir asked for does not come')
                    assert.ok(!event.usage)
                }
                text += sdk.delta(event)
            }
            assert.equal(text, TEXT)
            await tokensOf(tenant, { input: 18, cached: 0, output: 28 })
        })

        test('a limit that never opens is not retried', async () => {
            const { statuses, spy } = recorder()
            const client = connect('/shut', { tenant: 'shut', fetch: spy })
            await assert.rejects(sdk.ask(client), (error) => {
                assert.ok(error instanceof sdk.RateLimitError)
                assert.equal(error.headers.get('x-should-retry'), 'false')
                assert.equal(error.headers.get('retry-after'), '3600')
                return true
            })
            assert.deepEqual(statuses, [429])
        })

        test('the SDK\'s key names the tenant and stays here', async () => {
            const id = freshId('key')
            const client = sdk.client(ports.keyed, '', { apiKey: KEY })
            const answer = await sdk.ask(client, { headers: { 'X-Correlation-ID': id } })
            assert.equal(sdk.text(answer), TEXT)
            const [entry] = await journal(id)
            assert.equal(entry.headers['x-tenant-id'], 'acme')
            for (const name of ['authorization', 'x-api-key']) assert.equal(entry.headers[name], undefined)
            assert.ok(!JSON.stringify(entry.headers).includes(KEY))
            assert.ok(!readFileSync(accessLog, 'utf8').includes(KEY))
        })

        test('an unknown key raises AuthenticationError', async () => {
            const client = sdk.client(ports.keyed, '', { apiKey: 'sk-not-ours', maxRetries: 0 })
            await assert.rejects(sdk.ask(client), (error) => {
                assert.ok(error instanceof sdk.AuthenticationError, `${error.constructor.name}: ${error.message}`)
                assert.equal(error.headers.get('weir-reason'), 'api_key_unknown')
                return true
            })
        })

        // --- what weir says in the dialect ---

        const DIALECT_OF_429 = { openai: 'rate_limit_exceeded', anthropic: 'limit' }

        // A call that fails, and what the SDK made of weir's answer.
        const failure = async (path, { port = ports.main, ask = sdk.ask, ...options } = {}) => {
            const id = freshId('error')
            const client = connect(path, { port, maxRetries: 0, ...options })
            const call = ask(client, { headers: { 'X-Correlation-ID': id } })
            const error = await call.then(() => null, (reason) => reason)
            assert.ok(error, 'it did not fail')
            assert.equal(error.headers.get('content-type'), 'application/json')
            assert.equal(error.headers.get('x-correlation-id'), id)
            assert.equal(error.requestID, id, 'the SDK names the request as weir does')
            return error
        }
        const raised = (error, name, status) => {
            assert.equal(error.constructor, sdk.errors[name], `${error.constructor.name}: ${error.message}`)
            assert.equal(error.status, status)
        }

        test('a limit of a dialect raises RateLimitError, and names itself', async () => {
            const error = await failure(`/refused/${sdk.name}`, { tenant: 'shut' })
            raised(error, 'RateLimitError', 429)
            const { message, type, code } = sdk.said(error)
            assert.match(message, /shut, closed/)
            assert.deepEqual([type, code], ['rate_limit_error', DIALECT_OF_429[sdk.name]])
            assert.match(error.message, /tenant shut/, 'what a person sees')
        })

        test('the retry after a limit of a dialect succeeds', async () => {
            const { statuses, spy } = recorder()
            const client = connect(`/limited/${sdk.name}`, { fetch: spy })
            for (let call = 0; call < 5 && !statuses.includes(429); ++call)
                assert.equal(sdk.text(await sdk.ask(client)), TEXT)
            assert.deepEqual(statuses.slice(-2), [429, 200])
        })

        test('an unknown key of a dialect raises AuthenticationError', async () => {
            const error = await failure(`/${sdk.name}`, { port: ports.keyed, apiKey: 'sk-not-ours' })
            raised(error, 'AuthenticationError', 401)
            const { type, code } = sdk.said(error)
            assert.equal(type, { openai: 'invalid_request_error', anthropic: 'authentication_error' }[sdk.name])
            assert.equal(code, 'api_key_unknown')
        })

        test('an upstream that refuses raises InternalServerError, retried before', async () => {
            const { statuses, spy } = recorder()
            const error = await failure(`/dead/${sdk.name}`, { fetch: spy, maxRetries: 1 })
            raised(error, 'InternalServerError', 502)
            assert.deepEqual([sdk.said(error).type, sdk.said(error).code], ['api_error', 'connect_failed'])
            assert.deepEqual(statuses, [502, 502])
        })

        test('an upstream that hangs up raises InternalServerError', async () => {
            const error = await failure(`/once/${sdk.name}`, { defaultHeaders: { 'x-aimock-chaos-disconnect': '1' } })
            raised(error, 'InternalServerError', 502)
            assert.equal(sdk.said(error).code, 'reset')
        })

        test('a bad tenant raises BadRequestError', async () => {
            const error = await failure(`/once/${sdk.name}`, { tenant: 'no tenant' })
            raised(error, 'BadRequestError', 400)
            assert.deepEqual([sdk.said(error).type, sdk.said(error).code], ['invalid_request_error', 'tenant_invalid'])
        })

        test('a body that is too large raises what the SDK has for it', async () => {
            const messages = [{ role: 'user', content: 'x'.repeat(2 << 20) }]
            const ask = (client, options) => (sdk.name === 'openai'
                ? client.chat.completions.create({ model: 'm', messages }, options)
                : client.messages.create({ model: 'm', max_tokens: 9, messages }, options))
            const error = await failure(`/once/${sdk.name}`, { ask })
            assert.ok(error instanceof sdk.errors.APIError, `${error.constructor.name}: ${error.message}`)
            assert.equal(error.status, 413)
            const types = { openai: 'invalid_request_error', anthropic: 'request_too_large' }
            assert.equal(sdk.said(error).type, types[sdk.name])
        })

        test('what the provider itself says is not touched', async () => {
            const client = connect(`/once/${sdk.name}`,
                { maxRetries: 0, defaultHeaders: { 'x-aimock-chaos-ratelimit': '1' } })
            await assert.rejects(sdk.ask(client), (error) => {
                raised(error, 'RateLimitError', 429)
                assert.equal(error.headers.get('weir-reason'), null)
                return true
            })
        })

        // --- streams that come to no good end ---

        const BROKEN = { cut: 'truncated', stall: 'timeout_idle', short: 'truncated' }
        for (const [name, begin] of Object.entries(sdk.streams))
            for (const [how, reason] of Object.entries(BROKEN))
                test(`a stream of ${name} that ends so raises APIError: ${how}`, async () => {
                    const stream = await begin(connect(`/broken/${sdk.name}/${how}`, { maxRetries: 0 }))
                    let text = ''
                    await assert.rejects(async () => {
                        for await (const event of stream) text += sdk.textOf(event)
                    }, (error) => {
                        assert.equal(error.constructor, sdk.errors.APIError,
                            `${error.constructor.name}: ${error.message}`)
                        assert.deepEqual([sdk.said(error).type, sdk.said(error).code], ['api_error', reason])
                        assert.match(error.message, /upstream/)
                        assert.equal(error.requestID, 'req-up', 'the answer is the upstream\'s')
                        return true
                    })
                    assert.equal(text, how === 'short' ? 'part0part1part2' : 'part0part1', 'what came, came')
                })

        for (const how of ['cut', 'half', 'stall', 'short'])
            test(`what collects a stream never gives a part of it as the whole: ${how}`, async () => {
                await assert.rejects(sdk.whole(connect(`/broken/${sdk.name}/${how}`,
                    { maxRetries: 0, logLevel: 'off' })))
            })

        for (const [name, begin] of Object.entries(sdk.streams))
            test(`half an event of ${name} is no event, and is not mixed with the error`, async () => {
                const stream = await begin(connect(`/broken/${sdk.name}/half`, { maxRetries: 0, logLevel: 'off' }))
                let text = ''
                await assert.rejects(async () => {
                    for await (const event of stream) text += sdk.textOf(event)
                }, (error) => {
                    // openai's SDK parses the half event itself before it comes to the error
                    if (sdk.name === 'openai') assert.equal(error.constructor, SyntaxError)
                    else assert.equal(sdk.said(error).code, 'truncated')
                    return true
                })
                assert.equal(text, 'part0part1')
            })
    })
}
