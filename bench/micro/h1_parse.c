/* What it costs to read a head: ns for each of a few typical ones, best of several rounds. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "../../proxy/h1_parse.h"

enum { ROUNDS = 20, CALLS = 100000, HEAD_MAX = 32768 };

static const char request_small[] = "GET /v1/models HTTP/1.1\r\n"
                                    "Host: agent:8080\r\n"
                                    "User-Agent: curl/7.88.1\r\n"
                                    "Accept: */*\r\n"
                                    "\r\n";

static const char request_sdk[] =
    "POST /v1/chat/completions HTTP/1.1\r\n"
    "Host: api.openai.com\r\n"
    "Accept: application/json\r\n"
    "Content-Type: application/json\r\n"
    "User-Agent: OpenAI/JS 6.1.0\r\n"
    "X-Stainless-Retry-Count: 0\r\n"
    "X-Stainless-Lang: js\r\n"
    "X-Stainless-Package-Version: 6.1.0\r\n"
    "X-Stainless-OS: Linux\r\n"
    "X-Stainless-Arch: x64\r\n"
    "X-Stainless-Runtime: node\r\n"
    "X-Stainless-Runtime-Version: v20.19.0\r\n"
    "Authorization: Bearer sk-proj-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRST\r\n"
    "X-Tenant-ID: acme\r\n"
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
    "Idempotency-Key: 0199a5c1-7c3e-7a10-9d2b-3f6c1f0e8a11\r\n"
    "Connection: keep-alive\r\n"
    "Content-Length: 1834\r\n"
    "\r\n";

static const char response_sse[] = "HTTP/1.1 200 OK\r\n"
                                   "Date: Thu, 20 Nov 2025 10:00:00 GMT\r\n"
                                   "Content-Type: text/event-stream; charset=utf-8\r\n"
                                   "Transfer-Encoding: chunked\r\n"
                                   "Connection: keep-alive\r\n"
                                   "access-control-expose-headers: X-Request-ID\r\n"
                                   "openai-organization: user-0123456789abcdef\r\n"
                                   "openai-processing-ms: 214\r\n"
                                   "openai-version: 2020-10-01\r\n"
                                   "x-ratelimit-limit-requests: 10000\r\n"
                                   "x-ratelimit-remaining-requests: 9999\r\n"
                                   "x-ratelimit-reset-requests: 6ms\r\n"
                                   "x-request-id: req_0123456789abcdef0123456789abcdef\r\n"
                                   "strict-transport-security: max-age=31536000; includeSubDomains; preload\r\n"
                                   "\r\n";

static const char chunks_sse[] = "19\r\ndata: {\"delta\":\"hello\"}\n\n\r\n"
                                 "19\r\ndata: {\"delta\":\"world\"}\n\n\r\n";

static const char path[] = "/v1/files/%66ile-0123456789;v=1/content?limit=20";

static char input[4096], names[4096];

static void parse_request(size_t len)
{
    static weir_h1_request_t request;
    if (weir_h1_parse_request(input, len, 0, HEAD_MAX, names, &request) != WEIR_H1_COMPLETE)
        abort();
}

static void parse_response(size_t len)
{
    static weir_h1_response_t response;
    if (weir_h1_parse_response(input, len, 0, HEAD_MAX, false, &response) != WEIR_H1_COMPLETE)
        abort();
}

static void read_chunks(size_t len)
{
    weir_h1_chunks_t chunks = {0};
    weir_str_t data;
    for (size_t at = 0, used; at != len; at += used)
        if (weir_h1_chunks_read(&chunks, input + at, len - at, &data, &used) != WEIR_H1_INCOMPLETE)
            abort();
}

static void match_path(size_t len)
{
    const char *detail;
    if (weir_h1_match_path(input, len, names, &detail) < 0)
        abort();
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void measure(const char *what, void (*run)(size_t len), const char *text, size_t len)
{
    int64_t best_ns = INT64_MAX;
    memcpy(input, text, len);
    for (int round = 0; round != ROUNDS; ++round) {
        int64_t start_ns = now_ns();
        for (int call = 0; call != CALLS; ++call)
            run(len);
        int64_t took_ns = now_ns() - start_ns;
        best_ns = took_ns < best_ns ? took_ns : best_ns;
    }
    printf("%-36s %5zu bytes %8.1f ns\n", what, len, (double)best_ns / CALLS);
}

int main(void)
{
    measure("request, 3 fields", parse_request, request_small, sizeof(request_small) - 1);
    measure("request of an SDK, 17 fields", parse_request, request_sdk, sizeof(request_sdk) - 1);
    measure("answer, 13 fields", parse_response, response_sse, sizeof(response_sse) - 1);
    measure("two chunks", read_chunks, chunks_sse, sizeof(chunks_sse) - 1);
    measure("match path", match_path, path, sizeof(path) - 1);
    return 0;
}
