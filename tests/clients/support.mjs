// What the files of this layer share: processes, the SDKs, and what they are asked.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import OpenAI from 'openai'
import Anthropic from '@anthropic-ai/sdk'

const here = fileURLToPath(new URL('.', import.meta.url))
const weirBinary = process.env.WEIR_BIN ?? join(here, '../../build/weir')
const aimockCli = join(here, 'node_modules/@copilotkit/aimock/dist/cli.js')

export const TEXT = 'Water over a weir: it keeps its level whatever comes down the river.'
export const QUESTION = [{ role: 'user', content: 'hello' }]
export const KEY = 'sk-acme-canary-3f9a'
export const CHUNK_GAP_MS = 30

// Not of those that the kernel gives to connections, which could take it before its owner does.
async function freePort() {
    for (;;) {
        const port = 10_000 + Math.floor(Math.random() * 20_000)
        const server = net.createServer().listen(port, '127.0.0.1')
        const isFree = await once(server, 'listening').then(() => true, () => false)
        if (!isFree) continue
        server.close()
        await once(server, 'close')
        return port
    }
}

export async function freePorts(...names) {
    const ports = {}
    for (const name of names) ports[name] = await freePort()
    return ports
}

export async function until(what, ask, timeoutMs = 60_000) {
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

export async function stop(child) {
    if (!child) return undefined
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM')
    const hung = pause(60_000, 'hung', { ref: false })
    const how = await Promise.race([child.ended, hung])
    if (how === 'hung') child.kill('SIGKILL')
    return how
}

export async function startAimock(port, fixtures, ...more) {
    const aimock = start(process.execPath, [aimockCli, '-p', `${port}`, '-f', join(here, fixtures), '--strict', ...more])
    await until('aimock', async () => (await fetch(`http://127.0.0.1:${port}/__aimock/health`)).ok)
    return aimock
}

export async function startWeir(dir, configuration, metricsPort) {
    assert.ok(existsSync(weirBinary), `${weirBinary} is not there: build it, or name it in WEIR_BIN`)
    const file = join(dir, 'weir.yaml')
    writeFileSync(file, configuration)
    const weir = start(weirBinary, ['-c', file])
    await until('weir to be ready', async () => {
        if (weir.exitCode !== null) return 'ended'
        return (await fetch(`http://127.0.0.1:${metricsPort}/readyz`)).ok
    })
    assert.equal(weir.exitCode, null, `weir did not start:\n${weir.text}`)
    return weir
}

export async function stopWeir(weir) {
    const how = await stop(weir)
    if (!weir) return
    assert.equal(how, 0, `weir ended with ${how}:\n${weir.text}`)
    assert.doesNotMatch(weir.text, /AddressSanitizer|ThreadSanitizer|runtime error:/)
}

// Every answer an SDK got, its own retries included.
export function recorder() {
    const statuses = []
    const spy = async (url, init) => {
        const response = await fetch(url, init)
        statuses.push(response.status)
        return response
    }
    return { statuses, spy }
}

let serial = 0
export const freshId = (name) => `sdk-${name}-${process.pid}-${++serial}`

// What the two SDKs do differently, so that every promise is tested on both.
export const SDKS = [
    {
        name: 'openai',
        errors: OpenAI,
        RateLimitError: OpenAI.RateLimitError,
        AuthenticationError: OpenAI.AuthenticationError,
        client: (port, path, options) =>
            new OpenAI({ baseURL: `http://127.0.0.1:${port}${path}/v1`, apiKey: 'sk-any', ...options }),
        ask: (client, options, model = 'gpt-4o') =>
            client.chat.completions.create({ model, messages: QUESTION }, options),
        stream: (client, options, model = 'gpt-4o') =>
            client.chat.completions.create({ model, messages: QUESTION, stream: true }, options),
        text: (answer) => answer.choices[0].message.content,
        delta: (event) => event.choices[0]?.delta?.content ?? '',
        tokens: (answer) => answer.usage.total_tokens,
        unavailable: 'InternalServerError', // the class of a 503
        // what weir said, as the SDK has it
        said: ({ error, type, code }) => ({ message: error.message, type, code }),
        streams: {
            'chat.completions': (client) =>
                client.chat.completions.create({ model: 'm', messages: QUESTION, stream: true }),
            responses: (client) => client.responses.create({ model: 'm', input: 'hello', stream: true }),
        },
        textOf: (event) => event.choices?.[0]?.delta?.content ?? event.delta ?? '',
        whole: (client) => client.chat.completions.stream({ model: 'm', messages: QUESTION }).finalMessage(),
    },
    {
        name: 'anthropic',
        errors: Anthropic,
        RateLimitError: Anthropic.RateLimitError,
        AuthenticationError: Anthropic.AuthenticationError,
        client: (port, path, options) =>
            new Anthropic({ baseURL: `http://127.0.0.1:${port}${path}`, apiKey: 'sk-any', ...options }),
        ask: (client, options, model = 'claude-any') =>
            client.messages.create({ model, max_tokens: 100, messages: QUESTION }, options),
        stream: (client, options, model = 'claude-any') =>
            client.messages.create({ model, max_tokens: 100, messages: QUESTION, stream: true }, options),
        text: (answer) => answer.content[0].text,
        delta: (event) => (event.type === 'content_block_delta' ? event.delta.text : ''),
        tokens: (answer) => answer.usage.input_tokens + answer.usage.output_tokens,
        unavailable: 'ServiceUnavailableError',
        said: ({ error, type }) => ({ message: error.error.message, type, code: error.reason }),
        streams: {
            messages: (client) =>
                client.messages.create({ model: 'm', max_tokens: 100, messages: QUESTION, stream: true }),
        },
        textOf: (event) => event.delta?.text ?? '',
        whole: (client) =>
            client.messages.stream({ model: 'm', max_tokens: 100, messages: QUESTION }).finalMessage(),
    },
]

