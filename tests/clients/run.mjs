// The SDKs people use, through weir, against aimock: node --test run.mjs
// WEIR_BIN names the binary (default: build/weir of this checkout).

import { after, before, describe, test } from 'node:test'
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import OpenAI from 'openai'
import Anthropic from '@anthropic-ai/sdk'

const here = fileURLToPath(new URL('.', import.meta.url))
const weirBinary = process.env.WEIR_BIN ?? join(here, '../../build/weir')
const aimockCli = join(here, 'node_modules/@copilotkit/aimock/dist/cli.js')

const TEXT = 'Water over a weir: it keeps its level whatever comes down the river.'
const QUESTION = [{ role: 'user', content: 'hello' }]
const KEY = 'sk-acme-canary-3f9a'
const CHUNK_GAP_MS = 30

const dir = mkdtempSync(join(tmpdir(), 'weir-clients-'))
const accessLog = join(dir, 'access.log')
let aimock, gate, weir, ports

async function freePort() {
    const server = net.createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address()
    server.close()
    await once(server, 'close')
    return port
}

async function until(what, ask, timeoutMs = 60_000) {
    const end = Date.now() + timeoutMs
    while (Date.now() < end) {
        const got = await ask().catch(() => undefined)
        if (got) return got
        await pause(30)
    }
    throw new Error(`gave up waiting for ${what}`)
}

function start(command, args) {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    child.text = ''
    for (const pipe of [child.stdout, child.stderr]) pipe.on('data', (bytes) => { child.text += bytes })
    child.ended = new Promise((resolve) => {
        child.once('exit', (code, signal) => resolve(signal ?? code))
        child.once('error', (error) => { child.text += error; resolve(error.code) })
    })
    return child
}

async function stop(child) {
    if (!child) return undefined
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM')
    const hung = pause(60_000, 'hung', { ref: false })
    const how = await Promise.race([child.ended, hung])
    if (how === 'hung') child.kill('SIGKILL')
    return how
}

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
    return `version: 1
admin: {address: 127.0.0.1:${ports.admin}}
metrics: {address: 127.0.0.1:${ports.metrics}}
log: {access: ${accessLog}, level: info}
limits:
  wide: {algorithm: sliding_window, limit: 1000, window: 1h}
  narrow: {algorithm: token_bucket, rate: 20/m, burst: 1}
  shut: {algorithm: token_bucket, rate: 20/m, tenants: {shut: {rate: 0/s}}}
  tokens: {algorithm: token_bucket, unit: llm_tokens, rate: 24/d, burst: 10000}
upstreams:
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
${route('/anthropic', 'as-anthropic', 'tokens')}
  keyed:
    address: 127.0.0.1:${ports.keyed}
    tenant:
      from: [{api_key: Authorization}, {api_key: x-api-key}]
      default: refuse
      api_keys: {${createHash('sha256').update(KEY).digest('hex')}: acme}
    routes:
      - {path: /, upstream: mock}
`
}

before(async () => {
    assert.ok(existsSync(weirBinary), `${weirBinary} is not there: build it, or name it in WEIR_BIN`)
    ports = {}
    for (const name of ['aimock', 'gate', 'main', 'keyed', 'admin', 'metrics']) ports[name] = await freePort()

    aimock = start(process.execPath, [aimockCli, '-p', `${ports.aimock}`, '-f', join(here, 'fixtures.json'),
        '--latency', `${CHUNK_GAP_MS}`, '--strict'])
    gate = new Gate()
    await gate.listen(ports.gate)
    await until('aimock', async () => (await fetch(`http://127.0.0.1:${ports.aimock}/__aimock/health`)).ok)

    const file = join(dir, 'weir.yaml')
    writeFileSync(file, configuration())
    weir = start(weirBinary, ['-c', file])
    await until('weir to be ready', async () => {
        if (weir.exitCode !== null) return 'ended'
        return (await fetch(`http://127.0.0.1:${ports.metrics}/readyz`)).ok
    })
    assert.equal(weir.exitCode, null, `weir did not start:\n${weir.text}`)
})

after(async () => {
    const how = await stop(weir)
    await stop(aimock)
    gate?.server?.closeAllConnections()
    gate?.server?.close()
    rmSync(dir, { recursive: true, force: true })
    if (!weir) return
    assert.equal(how, 0, `weir ended with ${how}:\n${weir.text}`)
    assert.doesNotMatch(weir.text, /AddressSanitizer|ThreadSanitizer|runtime error:/)
})

// Every answer an SDK got, its own retries included.
function recorder() {
    const statuses = []
    const spy = async (url, init) => {
        const response = await fetch(url, init)
        statuses.push(response.status)
        return response
    }
    return { statuses, spy }
}

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

let serial = 0
const freshId = (name) => `sdk-${name}-${process.pid}-${++serial}`

// What the two SDKs do differently, so that every promise is tested on both.
const SDKS = [
    {
        name: 'openai',
        RateLimitError: OpenAI.RateLimitError,
        AuthenticationError: OpenAI.AuthenticationError,
        client: (port, path, options) =>
            new OpenAI({ baseURL: `http://127.0.0.1:${port}${path}/v1`, apiKey: 'sk-any', ...options }),
        ask: (client, options) => client.chat.completions.create({ model: 'gpt-4o', messages: QUESTION }, options),
        stream: (client, options) =>
            client.chat.completions.create({ model: 'gpt-4o', messages: QUESTION, stream: true }, options),
        text: (answer) => answer.choices[0].message.content,
        delta: (event) => event.choices[0]?.delta?.content ?? '',
        tokens: (answer) => answer.usage.total_tokens,
        credential: 'authorization',
    },
    {
        name: 'anthropic',
        RateLimitError: Anthropic.RateLimitError,
        AuthenticationError: Anthropic.AuthenticationError,
        client: (port, path, options) =>
            new Anthropic({ baseURL: `http://127.0.0.1:${port}${path}`, apiKey: 'sk-any', ...options }),
        ask: (client, options) =>
            client.messages.create({ model: 'claude-any', max_tokens: 100, messages: QUESTION }, options),
        stream: (client, options) => client.messages.create(
            { model: 'claude-any', max_tokens: 100, messages: QUESTION, stream: true }, options),
        text: (answer) => answer.content[0].text,
        delta: (event) => (event.type === 'content_block_delta' ? event.delta.text : ''),
        tokens: (answer) => answer.usage.input_tokens + answer.usage.output_tokens,
        credential: 'x-api-key',
    },
]

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
            assert.equal(entry.headers[sdk.credential], undefined)
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
    })
}
