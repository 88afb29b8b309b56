#!/usr/bin/python3
"""A small agent to put weir in front of: usage: agent.py [PORT]

    ANY  any path               says what arrived: the method, the path, the headers weir is about
    POST /v1/chat/completions   an OpenAI-shaped completion; with "stream": true word by word, as server-sent events
"""
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = "Water over a weir keeps its level, whatever comes down the river.".split()
PAUSE_S = 0.08


class Agent(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    disable_nagle_algorithm = True  # a word goes out when it is written

    def echo(self):
        body = self.read_body()
        named = {name: self.headers[name] for name in
                 ("X-Correlation-ID", "X-Request-ID", "X-Tenant-ID", "traceparent") if name in self.headers}
        self.answer({"method": self.command, "path": self.path, "headers": named, "body_bytes": len(body)})

    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = echo

    def do_POST(self):
        if self.path.partition("?")[0] != "/v1/chat/completions":
            return self.echo()
        try:
            asked = json.loads(self.read_body())
            model, messages = str(asked.get("model", "demo")), asked["messages"]
        except (ValueError, KeyError, AttributeError):
            return self.answer({"error": {"message": "messages are required", "type": "invalid_request_error"}}, 400)
        usage = {"prompt_tokens": len(json.dumps(messages)) // 4, "completion_tokens": len(WORDS)}
        usage["total_tokens"] = sum(usage.values())
        if asked.get("stream"):
            wants_usage = (asked.get("stream_options") or {}).get("include_usage")
            return self.stream(model, usage if wants_usage else None)
        choice = {"index": 0, "message": {"role": "assistant", "content": " ".join(WORDS)}, "finish_reason": "stop"}
        self.answer({"id": "chatcmpl-demo", "object": "chat.completion", "created": int(time.time()), "model": model,
                     "choices": [choice], "usage": usage})

    def stream(self, model, usage):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def event(**fields):
            self.chunk("data: " + json.dumps({"id": "chatcmpl-demo", "object": "chat.completion.chunk",
                                              "created": int(time.time()), "model": model, **fields}) + "\n\n")

        def delta(fields, reason=None):
            event(choices=[{"index": 0, "delta": fields, "finish_reason": reason}])

        delta({"role": "assistant", "content": ""})
        for word in WORDS:
            delta({"content": word + " "})
            time.sleep(PAUSE_S)
        delta({}, "stop")
        if usage:
            event(choices=[], usage=usage)
        self.chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def answer(self, value, status=200):
        data = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():  # trailers
                pass
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            pass  # the caller left, and weir with it

    def log_message(self, *_):
        pass  # weir has the access log


class Server(ThreadingHTTPServer):
    request_queue_size = 128


if __name__ == "__main__":
    try:
        Server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 9000), Agent).serve_forever()
    except KeyboardInterrupt:
        pass
