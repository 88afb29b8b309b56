"""An upstream that is a process of its own, to be killed and stopped. Prints its port, then serves: /slow sends the head and
half of its body and waits, /stream sends events for ever, everything else is `ok`."""
import socket
import threading
import time


def serve(conn):
    src = conn.makefile("rb")
    while line := src.readline():
        target = line.split(b" ")[1]
        length = 0
        while (field := src.readline().strip()):
            if field.lower().startswith(b"content-length:"):
                length = int(field.split(b":")[1])
        src.read(length)
        if target == b"/slow":
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.")
            time.sleep(600)
        elif target == b"/stream":
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(100_000):
                conn.sendall(b"9\r\ndata: 1\n\n\r\n")
                time.sleep(0.002)
        else:
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def main():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    print(listener.getsockname()[1], flush=True)
    while True:
        conn, _ = listener.accept()
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(conn,), daemon=True).start()


main()
