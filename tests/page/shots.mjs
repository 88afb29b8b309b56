// The pictures of the page in shots/: ten minutes of real traffic, calm and then a storm, as weir shows it.
// SHOTS=1 node --test run.mjs

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { crc32, deflateSync, inflateSync } from 'node:zlib'
import { here, openTab, startUpstream, startWeir } from './support.mjs'

const CALM_MINUTES = 6, STORM_MINUTES = 3, EVERY_MS = 70

const configuration = ({ admin, metrics, data, upstream }) => `version: 1
admin: {address: "127.0.0.1:${admin}"}
metrics: {address: "127.0.0.1:${metrics}"}
log: {access: none, level: error}
limits:
  per-tenant: {algorithm: token_bucket, rate: 2/s, burst: 20, key: [tenant], tenants: {acme: {rate: 50/s, burst: 100}}}
  tokens: {algorithm: token_bucket, unit: llm_tokens, rate: 60000/m, burst: 90000, key: [tenant]}
  slots: {algorithm: concurrency, limit: 8, key: [route], scope: local, queue: {size: 40, wait: 5s}}
dedup:
  jobs: {key: [{header: Idempotency-Key}], window: 24h}
upstreams:
  openai: {url: "http://127.0.0.1:${upstream}", dialect: openai, headers: {set: {X-Provider: openai}}, breaker: {open: {base: 20s, max: 40s, jitter: 20%}}}
  azure-fallback: {url: "http://127.0.0.1:${upstream}", dialect: openai}
  agent: {url: "http://127.0.0.1:${upstream}"}
listeners:
  main:
    address: "127.0.0.1:${data}"
    routes:
      - {path: /v1/chat/completions, upstream: openai, fallback: [azure-fallback], limits: [per-tenant, tokens, slots], dedup: jobs}
      - {path: /v1/embeddings, upstream: azure-fallback, limits: [per-tenant]}
      - {path: /, upstream: agent, limits: [per-tenant], dedup: jobs}
`

const BODY = JSON.stringify({ model: 'gpt-5', max_tokens: 40, messages: [{ role: 'user', content: 'hello' }] })

const chance = (() => { // the same each time
    let seed = 4711
    return () => (seed = (seed * 16807) % 2147483647) / 2147483647
})()

async function drive(weir, minutes, isStorm) {
    const end = Date.now() + minutes * 60_000, open = new Set()
    for (let i = 0; Date.now() < end; ++i) {
        const tide = .6 + .4 * Math.sin(Date.now() / 60_000), kind = chance()
        const path = kind < .5 ? '/v1/chat/completions' : kind < .6 ? '/v1/embeddings' : '/events'
        const tenant = kind > .93 && isStorm ? 'batch-importer' : ['acme', 'acme', 'acme', 'north', 'search-team'][i % 5]
        const key = chance() < .3 ? { 'idempotency-key': `job-${Math.floor(i / 3)}` } : {}
        const ask = weir.ask(path, { 'x-tenant-id': tenant, 'content-type': 'application/json', ...key }, 'POST', BODY).catch(() => 0)
        open.add(ask)
        ask.finally(() => open.delete(ask))
        await pause(EVERY_MS / tide / (isStorm ? 1.6 : 1))
    }
    await Promise.all(open)
}

/* The same PNG, smaller: text packs best as it is, without the filters that suit photographs (PNG, 9.2). */
export function pack(png) {
    const chunks = []
    for (let at = 8; at < png.length; at += 12 + png.readUInt32BE(at)) chunks.push([png.toString('latin1', at + 4, at + 8), png.subarray(at + 8, at + 8 + png.readUInt32BE(at))])
    const head = chunks[0][1], depth = head[9] === 6 ? 4 : 3, size = head.readUInt32BE(0) * depth + 1
    const rows = inflateSync(Buffer.concat(chunks.filter(([type]) => type === 'IDAT').map(([, data]) => data)))
    for (let row = 0, filter; row < rows.length; row += size, rows[row - size] = 0)
        for (let i = row + ((filter = rows[row]), 1); i < row + size; ++i) {
            const left = i - depth > row ? rows[i - depth] : 0, up = row ? rows[i - size] : 0, corner = row && i - depth > row ? rows[i - size - depth] : 0
            const [a, b, c] = [left, up, corner].map((from) => Math.abs(left + up - corner - from))
            rows[i] += [0, left, up, (left + up) >> 1, a <= b && a <= c ? left : b <= c ? up : corner][filter]
        }
    const write = (type, data) => {
        const body = Buffer.concat([Buffer.from(type), data]), [before, behind] = [Buffer.alloc(4), Buffer.alloc(4)]
        before.writeUInt32BE(data.length)
        behind.writeUInt32BE(crc32(body))
        return Buffer.concat([before, body, behind])
    }
    return Buffer.concat([png.subarray(0, 8), write('IHDR', head), write('IDAT', deflateSync(rows, { level: 9, memLevel: 9 })), write('IEND', Buffer.alloc(0))])
}

async function shoot(browser, weir, name) {
    for (const [suffix, size] of [['', { width: 1200 }], ['-phone', { width: 360, deviceScaleFactor: 2 }]])
        for (const colorScheme of ['light', 'dark']) {
            const tab = await openTab(browser, { ...size, colorScheme })
            await tab.route(weir.page, (route) => route.fulfill({ path: join(here, '../../proxy/status.html') })) // as it is in the tree
            await tab.goto(weir.page)
            await tab.says('#clock', /live/)
            await pause(6000) // its own counts, of the last seconds
            writeFileSync(join(here, 'shots', `${name}-${colorScheme}${suffix}.png`), pack(await tab.screenshot({ fullPage: true })))
            await tab.finish()
        }
}

export async function takeShots(browser) {
    mkdirSync(join(here, 'shots'), { recursive: true })
    let isStorm = false
    const upstream = await startUpstream((req) => {
        if (!isStorm) return '/ok'
        if (req.headers['x-provider'] === 'openai' && chance() < .9) return '/fail'
        return req.url.startsWith('/v1/embeddings') && chance() < .02 ? '/pause' : '/ok'
    })
    const weir = await startWeir({ upstream: upstream.port, configuration })
    await drive(weir, CALM_MINUTES, false)
    const calm = drive(weir, .8, false)
    await shoot(browser, weir, 'idle')
    await calm
    isStorm = true
    await drive(weir, STORM_MINUTES, true)
    weir.configure({ metrics: 'none' })
    await fetch(`${weir.page}reload`, { method: 'POST' })
    const storm = drive(weir, .8, true)
    await shoot(browser, weir, 'storm')
    await storm
    await weir.stop()
    weir.remove()
    upstream.stop()
}
