// What the tests of the page share: weir, an upstream that fails on demand, and a browser that keeps what it complains about.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'

export const here = fileURLToPath(new URL('.', import.meta.url))
const weirBinary = process.env.WEIR_BIN ?? join(here, '../../build/weir')
const browserBinary = '/usr/bin/chromium'

// Not of those that the kernel gives to connections, which could take it before its owner does.
export async function freePort() {
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

export async function until(what, ask, timeoutMs = 30_000) {
    const end = Date.now() + timeoutMs
    let got, error
    while (Date.now() < end) {
        got = await ask().catch((e) => { error = e })
        if (got) return got
        await pause(50)
    }
    throw new Error(`gave up waiting for ${what}${error ? `: ${error.message}` : ''}`)
}

// -- the upstream: /ok answers, /fail hangs up, /pause is throttled, /slow waits until it is let go -------------------

export async function startUpstream(pathOf = (req) => req.url) {
    const seen = [], held = []
    const server = http.createServer((req, res) => {
        seen.push(req.url)
        req.resume().on('end', () => {
            const path = pathOf(req)
            if (path.startsWith('/fail')) return req.socket.destroy()
            if (path.startsWith('/slow')) return held.push(() => res.end('slow\n'))
            const isPaused = path.startsWith('/pause')
            res.writeHead(isPaused ? 429 : 200, { 'content-type': 'application/json', ...isPaused && { 'retry-after': '60' } })
            res.end(JSON.stringify({ usage: { prompt_tokens: 120, completion_tokens: 30 } }))
        })
    }).listen(await freePort(), '127.0.0.1')
    await once(server, 'listening')
    return {
        port: server.address().port,
        seen,
        held,
        letGo: () => held.splice(0).forEach((go) => go()),
        stop: () => { server.closeAllConnections(); server.close() },
    }
}

// -- weir -------------------------------------------------------------------------------------------------------------

export const configuration = ({ admin, metrics, data, upstream, token = null, more = { limits: '', upstreams: '' } }) => `version: 1
admin: {address: "127.0.0.1:${admin}", token: ${token}}
metrics: {address: "127.0.0.1:${metrics}"}
log: {access: none, level: error}
server: {drain: {delay: 0s, timeout: 30s}}
tenant: {from: [{header: X-Tenant-ID}], trusted: [127.0.0.0/8], default: anonymous}
limits:
  per-tenant: {algorithm: token_bucket, rate: 1/h, burst: 5, key: [tenant]}
  per-agent: {algorithm: sliding_window, limit: 4, window: 1h, key: [{header: X-Agent}]}
  per-route: {algorithm: sliding_window, limit: 2, window: 1h, key: [route]}
  slots: {algorithm: concurrency, limit: 1, key: [], scope: local, queue: {size: 4, wait: 20s, per_tenant: 100%}}
${more.limits}
dedup:
  jobs: {key: [{header: Idempotency-Key}], window: 1h}
upstreams:
  agent: {url: "http://127.0.0.1:${upstream}", retry: false}
  provider: {url: "http://127.0.0.1:${upstream}", dialect: openai, retry: false, breaker: {consecutive_failures: 3, open: {base: 100s, jitter: 0%}}}
  tired: {url: "http://127.0.0.1:${upstream}", dialect: openai, retry: false}
${more.upstreams}
listeners:
  main:
    address: "127.0.0.1:${data}"
    routes:
      - {path: /, upstream: agent}
      - {path: /ok/tenant, upstream: agent, limits: [per-tenant]}
      - {path: /ok/agent, upstream: agent, limits: [per-agent]}
      - {path: /ok/route, upstream: agent, limits: [per-route]}
      - {path: /ok/job, upstream: agent, dedup: jobs}
      - {path: /slow, upstream: agent, limits: [slots]}
      - {path: /fail, upstream: provider}
      - {path: /ok/provider, upstream: provider}
      - {path: /pause, upstream: tired}
`

export async function startWeir(options) {
    assert.ok(existsSync(weirBinary), `${weirBinary} is not there: build it, or name it in WEIR_BIN`)
    const ports = { admin: await freePort(), metrics: await freePort(), data: await freePort() }
    const dir = mkdtempSync(join(tmpdir(), 'weir-page-')), file = join(dir, 'weir.yaml')
    const weir = { ...ports, options, page: `http://127.0.0.1:${ports.admin}/`, dir, file }
    weir.configure = (changes) => writeFileSync(file, (options.configuration ?? configuration)({ ...ports, ...options, ...changes }))
    weir.start = async () => {
        const child = spawn(weirBinary, ['-c', file], { stdio: ['ignore', 'ignore', 'pipe'] })
        weir.child = child
        child.text = ''
        child.stderr.on('data', (bytes) => { child.text += bytes })
        child.ended = once(child, 'exit')
        await until('weir to be ready', async () => {
            assert.equal(child.exitCode, null, `weir did not start:\n${child.text}`)
            return (await fetch(`http://127.0.0.1:${ports.metrics}/readyz`)).ok
        })
    }
    weir.stop = async () => {
        if (weir.child.exitCode === null && weir.child.signalCode === null) weir.child.kill('SIGTERM')
        const hung = setTimeout(() => weir.child.kill('SIGKILL'), 40_000)
        const [code] = await weir.child.ended
        clearTimeout(hung)
        assert.equal(code, 0, `weir ended with ${code}:\n${weir.child.text}`)
    }
    weir.ask = (path, headers = {}, method = 'GET', body) => fetch(`http://127.0.0.1:${ports.data}${path}`, { method, headers, body, signal: AbortSignal.timeout(60_000) })
        .then(async (answer) => { await answer.arrayBuffer(); return answer.status })
    weir.status = async () => (await fetch(`${weir.page}status`)).json()
    weir.upstream = async (name) => (await weir.status()).upstreams.find((one) => one.name === name)
    weir.remove = () => rmSync(dir, { recursive: true })
    weir.configure()
    await weir.start()
    return weir
}

// -- the browser ------------------------------------------------------------------------------------------------------

export async function startBrowser() {
    assert.ok(existsSync(browserBinary), `${browserBinary} is not there: install Debian's chromium`)
    return chromium.launch({ executablePath: browserBinary, args: ['--no-sandbox', '--disable-gpu'] })
}

/* A tab. What it complains about is kept in `complaints`, but for answers that a test wants to be errors. */
export async function openTab(browser, { width = 1200, height = 800, colorScheme = 'light', reducedMotion = 'reduce', ...more } = {}) {
    const context = await browser.newContext({ viewport: { width, height }, colorScheme, reducedMotion, ...more })
    const tab = await context.newPage()
    tab.setDefaultTimeout(20_000)
    tab.complaints = []
    tab.on('pageerror', (error) => tab.complaints.push(String(error)))
    tab.on('console', (message) => {
        const text = message.text()
        if (message.type() === 'error' && !/Failed to load resource/.test(text)) tab.complaints.push(text)
    })
    tab.says = (selector, pattern) => until(`${selector} to say ${pattern}`, async () => pattern.test(await tab.locator(selector).innerText({ timeout: 1000 })))
    tab.finish = async () => {
        const complaints = tab.complaints
        await context.close()
        assert.deepEqual(complaints, [])
    }
    return tab
}
