// The status page in a real browser, before the real weir: what it shows, what it does, and what it must not do.
// usage: WEIR_BIN=build/weir node --test tests/page/run.mjs        SHOTS=1: the pictures in shots/ too (ten minutes)

import assert from 'node:assert/strict'
import http from 'node:http'
import { after, before, describe, test } from 'node:test'
import { freePort, openTab, startBrowser, startUpstream, startWeir, until } from './support.mjs'

let browser, upstream, weir

before(async () => {
    browser = await startBrowser()
    upstream = await startUpstream()
    weir = await startWeir({ upstream: upstream.port })
})

after(async () => {
    await browser?.close()
    upstream?.letGo()
    await weir?.stop()
    weir?.remove()
    upstream?.stop()
})

/* A tab at the page, closed again; what the browser complained about fails the test. */
async function withTab(options, use, at = weir) {
    const tab = await openTab(browser, options)
    await options.before?.(tab)
    await tab.goto(at.page)
    try {
        await use(tab)
    } catch (error) {
        await tab.context().close()
        throw error
    }
    await tab.finish()
}

const live = (tab) => tab.says('#clock', /live/)
const headline = (tab, pattern) => tab.says('#headline', pattern)
const confirm = (tab) => tab.locator('#go').click()
const typed = (tab, what) => tab.getByRole('textbox', { name: what })
const cells = (row) => row.locator('td').allInnerTexts()
const isWide = (tab) => tab.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth)
const askMany = (times, path, headers, method) => Promise.all(Array.from({ length: times }, () => weir.ask(path, headers, method)))

/* weir's own answer, changed on its way to the tab. */
const withStatus = (change) => async (tab) => tab.route('**/status?*', async (route) => {
    const answer = await route.fetch()
    await route.fulfill({ response: answer, json: change(await answer.json()) ?? {} })
})

describe('before anything went wrong', () => {
    test('the file is answered with a policy that lets nothing else in', async () => {
        const answer = await fetch(weir.page), head = await fetch(weir.page, { method: 'HEAD' }), text = await answer.text()
        assert.equal(answer.headers.get('content-type'), 'text/html; charset=utf-8')
        assert.equal(answer.headers.get('referrer-policy'), 'no-referrer')
        assert.match(answer.headers.get('content-security-policy'), /^default-src 'none'; connect-src 'self'; .*script-src 'sha256-[^']+'; style-src 'sha256-[^']+'$/)
        assert.equal(head.headers.get('content-length'), answer.headers.get('content-length'))
        assert.equal(Buffer.byteLength(text), Number(answer.headers.get('content-length')))
        for (const tag of ['style', 'script']) assert.equal(text.split(`<${tag}>`).length, 2, `one <${tag}>`)
        assert.doesNotMatch(text, /\sstyle=|\son[a-z]+=|https?:\/\/|innerHTML|insertAdjacentHTML|document\.write/)
    })

    test('it says that weir is healthy, in its first words', () => withTab({}, async (tab) => {
        await headline(tab, /^Healthy: /)
        assert.match(await tab.title(), /^Healthy.* – weir$/)
        assert.match(await tab.locator('#gist').innerText(), /Up .*3 upstreams/)
    }))

    test('numbers change by themselves, and nodes stay', () => withTab({}, async (tab) => {
        await live(tab)
        const button = tab.getByRole('button', { name: 'Breaker of agent' })
        await button.focus()
        await tab.evaluate(() => {
            window.kept = [document.activeElement, document.querySelector('#listeners h3')]
            getSelection().selectAllChildren(window.kept[1])
        })
        const shown = await tab.locator('#upstreams').innerText()
        await askMany(3, '/ok', {})
        await tab.says('#upstreams', /since start: ok [3-9]/)
        const clock = await tab.locator('#clock').innerText()
        await until('the clock to go on', async () => (await tab.locator('#clock').innerText()) !== clock)
        assert.notEqual(await tab.locator('#upstreams').innerText(), shown)
        const slow = weir.ask('/slow')
        await tab.says('#in-flight', /^1$/)
        upstream.letGo()
        await slow
        await tab.says('#in-flight', /^0$/)
        assert.deepEqual(await tab.evaluate(() => [window.kept[0] === document.activeElement, window.kept[1].isConnected, String(getSelection())]), [true, true, 'main'])
    }))

    test('charts tell their numbers in words, and minute by minute', () => withTab({}, async (tab) => {
        await weir.ask('/ok')
        await until('the chart to have requests', async () => /^[1-9]\d* requests? in .*, \d+ refused, \d+ failed/.test(await tab.locator('#charts .plot svg').first().getAttribute('aria-label')))
        await tab.getByText('Minute by minute').click()
        const rows = tab.locator('#minutes tbody tr')
        assert.match((await cells(rows.first()))[0], /^\d\d:\d\d:\d\d$/)
        assert.ok(Number((await cells(rows.first()))[1]) > 0)
        await tab.locator('#charts .plot').first().hover({ position: { x: 5, y: 20 } })
        assert.match(await tab.locator('#pointed').innerText(), /nothing yet/)
    }))
})

describe('limits', () => {
    test('who is at a limit is shown; cancel does nothing, and a fresh start is one', () => withTab({}, async (tab) => {
        const acme = { 'x-tenant-id': 'acme' }
        assert.deepEqual((await askMany(7, '/ok/tenant', acme)).sort(), [200, 200, 200, 200, 200, 429, 429])
        const row = tab.locator('.near', { hasText: 'tenant=acme' })
        await until('acme to have nothing left', async () => /none of 5 requests left/.test(await row.innerText()))
        await headline(tab, /^Healthy/)
        await tab.says('#issues', /note\s+1 key has nothing left/)
        await tab.says('#refused tbody', /limit\s+\d+\s+2/)
        await row.getByRole('button').click()
        assert.equal(await tab.evaluate(() => document.activeElement.id), 'cancel')
        await tab.keyboard.press('Enter')
        await tab.locator('#ask').waitFor({ state: 'hidden' })
        assert.equal(await weir.ask('/ok/tenant', acme), 429)
        await row.getByRole('button').click()
        assert.match(await tab.locator('#ask').innerText(), /tenant=acme has used is forgotten/)
        await confirm(tab)
        await tab.says('#done', /tenant=acme has a fresh start/)
        assert.deepEqual((await askMany(5, '/ok/tenant', acme)), [200, 200, 200, 200, 200])
    }))

    test('a tenant that is typed gets one too, and what weir says against it is shown', () => withTab({}, async (tab) => {
        const beta = { 'x-tenant-id': 'b/eta@x:1' }
        assert.ok((await askMany(6, '/ok/tenant', beta)).includes(429))
        const open = () => tab.getByRole('button', { name: 'Fresh start for a key of limit per-tenant' }).click()
        await live(tab)
        await open()
        await typed(tab, 'tenant').fill('no such tenant')
        await confirm(tab)
        await tab.says('#wrong', /letters, digits/)
        await typed(tab, 'tenant').fill('b/eta@x:1')
        await confirm(tab)
        await tab.says('#done', /tenant=b\/eta@x:1 has a fresh start/)
        assert.equal(await weir.ask('/ok/tenant', beta), 200)
    }))

    test('a key of a route is asked for with the route', () => withTab({}, async (tab) => {
        assert.ok((await askMany(4, '/ok/route', {})).includes(429))
        await tab.getByRole('button', { name: /Fresh start for route=\/ok\/route/ }).click()
        await confirm(tab)
        await tab.says('#done', /fresh start/)
        assert.equal(await weir.ask('/ok/route'), 200)
    }))

    test('a name that is markup is text', () => withTab({}, async (tab) => {
        await askMany(5, '/ok/agent', { 'x-agent': '<img/src=x/onerror=document.title=1>' })
        await tab.says('#nearest', /header:x-agent=<img\/src=x\/onerror=document\.title=1>/)
        await tab.getByRole('button', { name: /Fresh start for header:x-agent=<img/ }).click()
        assert.match(await tab.locator('#ask').innerText(), /<img\/src=x/)
        await confirm(tab)
        await tab.says('#done', /<img\/src=x.* has a fresh start/)
        assert.equal(await tab.locator('img').count(), 0)
        assert.match(await tab.title(), /weir$/)
    }))

    test('those who wait are counted by their class', () => withTab({}, async (tab) => {
        const slow = [weir.ask('/slow'), weir.ask('/slow'), weir.ask('/slow')]
        await tab.says('#limits', /2 of 4 queue places taken \(normal 2\)/)
        for (let i = 0; i < 3; ++i) {
            await until('a slow call', async () => upstream.held.length)
            upstream.letGo()
        }
        await Promise.all(slow)
    }))
})

describe('dedup', () => {
    const job = { 'idempotency-key': 'job 1/x', 'x-tenant-id': 'acme' }, runs = () => upstream.seen.filter((url) => url === '/ok/job').length

    test('what was saved is shown, and a key that is forgotten runs again', () => withTab({}, async (tab) => {
        for (let i = 0; i < 3; ++i) assert.equal(await weir.ask('/ok/job', job, 'POST'), 200)
        assert.equal(runs(), 1)
        await tab.says('#dedup', /2 runs saved since start, 67 % of those with a key\s+replayed 2, first 1/)
        await tab.getByRole('button', { name: 'Forget a key of dedup jobs' }).click()
        await typed(tab, 'key').fill('job 2')
        await confirm(tab)
        await tab.says('#wrong', /not known/)
        await typed(tab, 'key').fill('job 1/x')
        await typed(tab, 'tenant').fill('acme')
        await confirm(tab)
        await tab.says('#done', /job 1\/x is forgotten/)
        await weir.ask('/ok/job', job, 'POST')
        assert.equal(runs(), 2)
    }))
})

describe('a storm', () => {
    before(async () => {
        for (let i = 0; i < 4; ++i) await weir.ask('/fail')
        await weir.ask('/pause')
        await until('the breaker to be open', async () => (await weir.upstream('provider')).breakers[0].state === 'open')
    })

    test('what is wrong comes first, in words', () => withTab({}, async (tab) => {
        await headline(tab, /^Not healthy: no request reaches provider, the breaker is open\.$/)
        assert.match(await tab.title(), /^Not healthy: no request reaches provider/)
        await tab.says('#issues', /concern\s+tired asked for a pause/)
        assert.match(await tab.locator('#spoken').textContent(), /Not healthy.*no request reaches provider/)
        const names = tab.locator('#upstreams h3')
        await until('the sick to come first', async () => (await names.allInnerTexts()).join() === 'provider,tired,agent')
        const row = tab.locator('#upstreams .rows > li').first()
        assert.match(await row.innerText(), /open\b.*tried again in \d+ s|tried again in 1 min/s)
        await until('the strip to show it', async () => /open once/.test(await row.locator('svg').getAttribute('aria-label')))
        assert.equal(await row.locator('svg path.solid').count(), 1)
        assert.match(await row.innerText(), /since start: .*reset 3/)
        await tab.says('#refused tbody', /breaker_open/)
    }))

    test('the breaker is held and let go by hand, after a word', () => withTab({}, async (tab) => {
        const open = () => tab.getByRole('button', { name: 'Breaker of provider' }).click(), state = async () => (await weir.upstream('provider')).breakers[0]
        const choose = async (what) => { await open(); await tab.getByRole('radio', { name: what }).check() }
        await live(tab)
        await open()
        assert.equal(await tab.evaluate(() => document.activeElement.id), 'cancel')
        assert.ok(await tab.locator('#go').isDisabled(), 'nothing is chosen yet')
        await tab.getByRole('radio', { name: /^Hold closed/ }).check()
        await tab.locator('#cancel').click()
        assert.equal((await state()).by_hand, false)
        assert.equal(await weir.ask('/ok/provider'), 503)
        await choose(/^Hold closed/)
        await confirm(tab)
        await tab.says('#done', /provider is held closed by hand/)
        assert.equal(await weir.ask('/ok/provider'), 200)
        await headline(tab, /^Working, but .*/)
        await tab.says('#upstreams', /closed by hand/)
        await choose(/^Hold open/)
        await confirm(tab)
        await until('the breaker to be held open', async () => (await state()).by_hand && (await state()).state === 'open')
        await tab.says('#upstreams', /open by hand/)
        await choose(/^Automatic/)
        await confirm(tab)
        await tab.says('#done', /automatic again, and half-open now/)
        assert.deepEqual((await state()).by_hand, false)
    }))

    test('a page of another origin can do nothing', async () => {
        const port = await freePort()
        const other = http.createServer((_, res) => res.end('<!doctype html><title>other</title><form method="post"><button>go</button></form>')).listen(port, '127.0.0.1')
        const before = await weir.status(), paths = ['upstreams/agent/breaker?state=open', 'reload']
        const tab = await openTab(browser)
        const answers = []
        tab.on('response', (answer) => answer.request().method() !== 'GET' && answers.push(answer.status()))
        await tab.goto(`http://127.0.0.1:${port}/`)
        for (const path of paths) {
            await tab.evaluate((url) => fetch(url, { method: 'POST', mode: 'no-cors' }).catch(() => 0), weir.page + path)
            await tab.evaluate((url) => { document.querySelector('form').action = url }, weir.page + path)
            await tab.getByRole('button').click()
            await until('the answer', async () => tab.url().startsWith(weir.page))
            await tab.goto(`http://127.0.0.1:${port}/`)
        }
        await tab.evaluate((url) => fetch(url, { method: 'DELETE' }).catch(() => 0), `${weir.page}limits/per-tenant?tenant=acme`)
        assert.deepEqual(answers, [403, 403, 403, 403], 'and the DELETE is not even sent')
        await tab.context().close()
        other.closeAllConnections()
        other.close()
        assert.equal((await weir.upstream('agent')).breakers[0].by_hand, false)
        assert.equal((await weir.status()).config.loaded_at, before.config.loaded_at)
        assert.equal((await fetch(`${weir.page}upstreams/agent/breaker?state=auto`, { method: 'POST' })).status, 200, 'who is no browser may')
    })
})

describe('the configuration', () => {
    test('a reload that fails shows all of its errors, one that does not takes them away', () => withTab({}, async (tab) => {
        const reload = async () => { await tab.getByRole('button', { name: 'Reload …' }).click(); await confirm(tab) }
        await live(tab)
        weir.configure({ metrics: 'no-port', token: '[1]' })
        await reload()
        await tab.says('#wrong', /metrics\.address.*/s)
        await tab.locator('#cancel').click()
        await until('two errors', async () => (await tab.locator('#config ol li').count()) >= 2)
        assert.match(await tab.locator('#config').innerText(), /changed nothing, because of:.*admin\.token.*metrics\.address/s)
        await until('the headline or a line to tell', async () => /last reload failed/.test(await tab.locator('body > header').innerText()))
        weir.configure()
        await reload()
        await tab.says('#done', /loaded again/)
        await until('no error', async () => (await tab.locator('#config ol li').count()) === 0)
    }))

    test('with fifty limits and twenty upstreams it stays short, and the sick are on top', async () => {
        const numbers = (n) => Array.from({ length: n }, (_, i) => i + 1)
        const limits = numbers(46).map((i) => `  limit-${i}: {algorithm: token_bucket, rate: 1/s, key: [tenant]}`).join('\n')
        const upstreams = numbers(17).map((i) => `  other-${i}: {url: "http://127.0.0.1:${upstream.port}"}`).join('\n')
        weir.configure({ more: { limits, upstreams } })
        assert.equal((await fetch(`${weir.page}reload`, { method: 'POST' })).status, 200)
        await fetch(`${weir.page}upstreams/other-17/breaker?state=open`, { method: 'POST' })
        await withTab({ width: 360, height: 740 }, async (tab) => {
            await tab.says('body > header', /no request reaches other-17, the breaker is held open by hand/)
            assert.equal(await tab.locator('#upstreams h3').first().innerText(), 'other-17')
            assert.equal(await tab.locator('#upstreams .rows > li:visible').count(), 8)
            assert.equal(await isWide(tab), false)
            await tab.getByRole('button', { name: 'Show all 20' }).click()
            assert.equal(await tab.locator('#upstreams .rows > li:visible').count(), 20)
            await tab.getByRole('button', { name: 'Show all 50' }).click()
            assert.equal(await tab.locator('#limits .rows > li:visible').count(), 50)
            assert.equal(await isWide(tab), false)
        })
        weir.configure()
        assert.equal((await fetch(`${weir.page}reload`, { method: 'POST' })).status, 200)
    })
})

describe('for everybody', () => {
    /* Of each text: its contrast to what is behind it (WCAG 2.2, 1.4.3). */
    const contrasts = () => {
        const parse = (color) => color.match(/[\d.]+/g).map(Number), lit = (c) => (c / 255 <= .04045 ? c / 255 / 12.92 : ((c / 255 + .055) / 1.055) ** 2.4)
        const light = ([r, g, b]) => .2126 * lit(r) + .7152 * lit(g) + .0722 * lit(b), found = {}
        const behind = (node) => { for (; node; node = node.parentElement) { const c = parse(getComputedStyle(node).backgroundColor); if (c.length < 4 || c[3] > 0) return c } }
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
        while (walker.nextNode()) {
            const node = walker.currentNode.parentElement
            if (!walker.currentNode.textContent.trim() || !node.checkVisibility() || /SCRIPT|STYLE/.test(node.tagName)) continue
            const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x)
            found[walker.currentNode.textContent.trim().slice(0, 40)] = (a + .05) / (b + .05)
        }
        return found
    }

    for (const colorScheme of ['light', 'dark'])
        test(`readable in the ${colorScheme}, on a desk and on a phone`, async () => {
            for (const width of [1200, 700, 360])
                await withTab({ colorScheme, width }, async (tab) => {
                    await live(tab)
                    const [red, green, blue] = (await tab.evaluate(() => getComputedStyle(document.body).backgroundColor)).match(/\d+/g).map(Number)
                    assert.equal(red + green + blue > 384, colorScheme === 'light')
                    assert.equal(await isWide(tab), false, `wider than ${width}`)
                    const found = Object.entries(await tab.evaluate(contrasts))
                    assert.ok(found.length > 40)
                    assert.deepEqual(found.filter(([, contrast]) => contrast < 4.5), [])
                })
        })

    test('landmarks, headings and names are there for who listens', () => withTab({}, async (tab) => {
        await live(tab)
        await until('rows', async () => (await tab.locator('#upstreams h3').count()) > 0)
        const tree = await tab.locator('body').ariaSnapshot()
        for (const wanted of ['- banner', '- main', '- contentinfo', 'heading /.*/ [level=1]', 'heading "Traffic" [level=2]', 'heading "Upstreams" [level=2]', 'region "Nearest their limits"',
            'region "Configuration"', 'heading "provider" [level=3]', 'button "Breaker of provider …"', 'button "Reload …"', '- status', 'img "provider, breaker in the last 15 minutes'])
            assert.ok(wanted.includes('/.*/') ? /heading ".*" \[level=1\]/.test(tree) : tree.includes(wanted), `${wanted} is not in\n${tree}`)
        const session = await tab.context().newCDPSession(tab), { nodes } = await session.send('Accessibility.getFullAXTree')
        const mute = nodes.filter((node) => !node.ignored && ['button', 'link', 'textbox', 'radio', 'image', 'region', 'dialog'].includes(node.role?.value) && !node.name?.value)
        assert.deepEqual(mute.map((node) => node.role.value), [])
        assert.ok(nodes.some((node) => node.role?.value === 'image' && /breaker in the last 15 minutes/.test(node.name.value)))
    }))

    test('what is said aloud changes with the state, not with each second', () => withTab({}, async (tab) => {
        await live(tab)
        await tab.evaluate(() => {
            window.said = 0
            new MutationObserver(() => { ++window.said }).observe(document.querySelector('#spoken'), { childList: true, characterData: true, subtree: true })
        })
        const tick = async () => { const clock = await tab.locator('#clock').innerText(); await until('a tick', async () => (await tab.locator('#clock').innerText()) !== clock) }
        for (let i = 0; i < 3; ++i) await tick()
        assert.equal(await tab.evaluate(() => window.said), 0)
        await fetch(`${weir.page}upstreams/agent/breaker?state=closed`, { method: 'POST' })
        await until('it to be said', async () => /agent.* held closed by hand/.test(await tab.locator('#spoken').textContent()))
        await fetch(`${weir.page}upstreams/agent/breaker?state=auto`, { method: 'POST' })
        assert.equal(await tab.locator('[aria-live], [role=status], [role=alert]').count(), 3, 'no region that ticks')
    }))

    test('a keyboard is enough', () => withTab({}, async (tab) => {
        await live(tab)
        await until('rows', async () => (await tab.locator('#upstreams h3').count()) > 0)
        const focused = () => tab.evaluate(() => ({ name: document.activeElement.ariaLabel ?? document.activeElement.textContent.trim(), line: getComputedStyle(document.activeElement).outlineStyle }))
        const reach = async (pattern) => {
            for (let i = 0; i < 80; ++i) {
                await tab.keyboard.press('Tab')
                const { name, line } = await focused()
                assert.notEqual(line, 'none', `${name} shows its focus`)
                if (pattern.test(name)) return
            }
            throw new Error(`Tab does not reach ${pattern}`)
        }
        await reach(/^Skip to the numbers/)
        await reach(/^Minute by minute/)
        await reach(/^Breaker of provider/)
        await tab.keyboard.press('Enter')
        assert.equal((await focused()).name, 'Cancel')
        await tab.keyboard.press('Escape')
        assert.match((await focused()).name, /^Breaker of provider/)
        await tab.keyboard.press('Enter')
        await tab.keyboard.press('Shift+Tab')
        await tab.keyboard.press('Space')
        assert.equal(await tab.evaluate(() => document.activeElement.type), 'radio')
        await until('something to be chosen', async () => tab.locator('#go').isEnabled())
        await tab.keyboard.press('Escape')
        await reach(/^Fresh start for/)
        await reach(/^Forget a key/)
        await reach(/^Reload/)
        await reach(/^readyz/)
    }))

    test('no row moves under a pointer', () => withTab({ before: withStatus((status) => {
        if (status.upstreams[0].name === 'agent') status.upstreams[0].breakers[0].state = moved ? 'open' : 'closed'
        return status
    }) }, async (tab) => {
        await live(tab)
        const names = () => tab.locator('#upstreams h3').allInnerTexts(), wasFirst = (await names())[0]
        await tab.locator('#upstreams .rows > li').last().hover()
        moved = true
        await tab.says('#upstreams', /agent\s+open/)
        assert.equal((await names())[0], wasFirst)
        await tab.locator('h1').hover()
        await until('the sick to come first', async () => (await names())[0] === 'agent')
    }))
    let moved = false
})

describe('what else weir may say', () => {
    test('a store that is degraded, tokens, and a queue that is full', () => withTab({ before: withStatus((status) => ({
        ...status, tokens: { input: 1200, cached: 5, output: 2_500_000 }, upstreams: status.upstreams.slice(0, 1),
        store: { kind: 'redis', up: false, degraded: true, mode: 'sentinel', address: '10.0.0.7:6379', since: '2020-01-02T03:04:05Z', why: 'did not answer within 20ms', sidecars: 8, commands: { ok: 10, timeout: 4, error: 1 } },
    })) }, async (tab) => {
        await headline(tab, /^Not healthy: the store does not answer/)
        await tab.says('#store', /Redis does not answer\.\s+sentinel; 10\.0\.0\.7:6379; since 2020-01-02 .*did not answer within 20ms; 8 sidecars/)
        await tab.says('#tokens', /input\s+0\s+1,200/)
        await tab.says('#tokens', /output\s+0\s+2\.5M/)
    }))

    const fullTables = (overflow) => withStatus(({ now, started_at, limits }) =>
        ({ now, started_at, limits: limits.map((limit) => ({ ...limit, keys: limit.max_keys, overflow: overflow() })) }))

    test('a limit whose keys find no row, while they find none', () => withTab({ before: fullTables(() => ++overflowed) }, async (tab) => {
        await headline(tab, /no row is left in limit/)
    }))
    let overflowed = 0

    test('a table that is full, of keys that have nothing to remember', () => withTab({ before: fullTables(() => 7) }, async (tab) => {
        await live(tab)
        await tab.says('#limits', /10,000 of 10,000 keys/)
        await headline(tab, /^Healthy/)
    }))

    test('an answer that it cannot read is not shown as live', () => withTab({ before: withStatus((status) => ({ ...status, limits: 7 })) }, async (tab) => {
        await headline(tab, /^weir answers with an error/)
        await tab.says('body', /is not understood/)
    }))

    test('an answer that has nothing in it breaks nothing', () => withTab({ before: withStatus(() => ({})) }, async (tab) => {
        await live(tab)
        await headline(tab, /^Healthy/)
    }))

    test('a hidden tab asks for nothing', async () => {
        const tab = await openTab(browser)
        await tab.clock.install()
        let asked = 0, answered = 0
        tab.on('request', (request) => { asked += request.url().includes('/status') })
        tab.on('requestfinished', (request) => { answered += request.url().includes('/status') })
        await tab.goto(weir.page)
        await live(tab)
        const hide = (hidden) => tab.evaluate((is) => {
            Object.defineProperty(document, 'hidden', { value: is, configurable: true })
            document.dispatchEvent(new Event('visibilitychange'))
        }, hidden)
        await hide(true)
        await until('what is asked to be answered', async () => answered === asked)
        const before = asked
        await tab.clock.runFor(20_000)
        assert.equal(asked, before)
        await hide(false)
        await until('it to ask again', async () => asked > before)
        await tab.finish()
    })
})

describe('with a token', () => {
    let guarded
    before(async () => { guarded = await startWeir({ upstream: upstream.port, token: 'a-long-secret' }) })
    after(async () => { await guarded.stop(); guarded.remove() })

    test('it asks for the token, and keeps it for the tab alone', async () => {
        const answer = await fetch(guarded.page, { headers: { accept: 'text/html' } })
        assert.equal(answer.status, 401)
        assert.match(answer.headers.get('www-authenticate'), /^Bearer/)
        assert.match(await answer.text(), /<title>weir<\/title>/)
        await withTab({}, async (tab) => {
            await headline(tab, /asks for its admin token/)
            assert.equal(await tab.evaluate(() => document.activeElement.id), 'token-value')
            assert.equal(await tab.locator('#all').isVisible(), false)
            await tab.keyboard.type('wrong')
            await tab.keyboard.press('Enter')
            await tab.says('#gist', /not the token/)
            await tab.keyboard.type('a-long-secret')
            await tab.keyboard.press('Enter')
            await headline(tab, /^Healthy/)
            await tab.getByRole('button', { name: 'Reload …' }).click()
            await confirm(tab)
            await tab.says('#done', /loaded again/)
            await tab.reload()
            await headline(tab, /^Healthy/)
            assert.doesNotMatch(tab.url(), /secret/)
            assert.deepEqual(await tab.evaluate(() => [document.cookie, localStorage.length]), ['', 0])
        }, guarded)
        await withTab({}, (tab) => headline(tab, /asks for its admin token/), guarded)
    })
})

describe('the end', () => {
    test('draining is told, then that weir does not answer and since when, and that it is back', () => withTab({}, async (tab) => {
        await live(tab)
        const slow = weir.ask('/slow')
        await until('the slow call', async () => upstream.held.length)
        const stopped = weir.stop()
        await headline(tab, /^Draining: weir ends when the 1 request in flight/)
        upstream.letGo()
        await slow
        await stopped
        await headline(tab, /^weir does not answer, since \d\d:\d\d:\d\d\.$/)
        assert.match(await tab.locator('#gist').innerText(), /from \d\d:\d\d:\d\d.*asked again every second/)
        assert.equal(await tab.locator('#clock').innerText(), 'not live')
        assert.match(await tab.title(), /^weir does not answer/)
        await tab.getByRole('button', { name: 'Reload …' }).click()
        await confirm(tab)
        await tab.says('#wrong', /whether it was done is not known/)
        await tab.keyboard.press('Escape')
        await weir.start()
        await headline(tab, /^Healthy/)
        assert.equal(await tab.locator('.stale').count(), 0)
    }))
})

if (process.env.SHOTS) test('the pictures', async () => (await import('./shots.mjs')).takeShots(browser))
