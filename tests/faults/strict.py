"""What a strict reader makes of an answer's bytes, when the connection ends behind them."""
import harness


class _Bytes(harness.Conn):
    def __init__(self, raw):
        self.src = harness.BytesSource(raw)
        self.src.end = "fin"


def read(raw, method="GET"):
    """The harness.Response; a ProtocolError (or AssertionError) where the bytes are no answer, NoResponse where they end
    before its head does."""
    return harness.read_response(_Bytes(raw), method)
