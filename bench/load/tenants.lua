-- wrk's script: a thousand tenants in turn, each request made beforehand, so that the generator costs as little as it
-- can. At the end one line of JSON, which bench.py reads. TENANTS in the environment is another count.
local tenants = tonumber(os.getenv("TENANTS") or "1000")
local requests = {}
local turn = 0

function init(args)
    for i = 1, tenants do
        requests[i] = wrk.format("GET", "/", {["Host"] = "bench", ["X-Tenant-ID"] = string.format("tenant-%d", i)})
    end
end

function request()
    turn = turn % tenants + 1
    return requests[turn]
end

function done(summary, latency, requests_a_second)
    local e = summary.errors
    io.write(string.format(
        '\nRESULT {"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"refused":%d,"failed":%d}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        e.status, e.connect + e.read + e.write + e.timeout))
end
