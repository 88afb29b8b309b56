"""Which metrics an expression of PromQL asks for, and whether the labels it uses can be there.

    labels = check('sum by (pod) (rate(weir_requests_total[5m]))', labels_of)      # {'pod'}

`labels_of(metric)` gives the set of labels of a metric, and raises KeyError for an unknown one. Wrong is a label that
the series in question never have: in a matcher, in by, on, ignoring, group_left; and two sides of an operator that can
never match. Syntax is promtool's to judge; this reads what it has accepted.
"""
import re


class Wrong(AssertionError):
    """What Prometheus accepts, and what can never give what it is meant to."""


AGGREGATIONS = {"sum", "min", "max", "avg", "count", "group", "stddev", "stdvar", "topk", "bottomk", "quantile", "count_values"}
KEEPING = {"topk", "bottomk"}                       # their result are series as they came
SCALARS = {"time", "scalar", "pi"}
PRECEDENCE = [{"or"}, {"and", "unless"}, {"==", "!=", "<", "<=", ">", ">="}, {"+", "-"}, {"*", "/", "%", "atan2"}, {"^"}]
_TOKEN = re.compile(r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
                           |(?P<number>(?:\d+(?:ms|[smhdwy]))+|\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)
                           |(?P<name>[a-zA-Z_:][\w:]*)
                           |(?P<sign>=~|!~|==|!=|<=|>=|[-+*/%^<>=(){}\[\],:@]))""", re.X)


def tokens_of(text):
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        m = _TOKEN.match(text, at)
        if not m:
            raise Wrong(f"cannot read {text[at:at + 40]!r}")
        found.append((m.lastgroup, m.group(m.lastgroup)))
        at = m.end()
    return found


class _Reader:
    """Recursive descent; every method returns the set of labels that its result can have, None for a scalar."""

    def __init__(self, text, labels_of, on_selector):
        self.tokens, self.at, self.labels_of, self.on_selector = tokens_of(text), 0, labels_of, on_selector

    def peek(self, ahead=0):
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else None

    def kind(self):
        return self.tokens[self.at][0] if self.at < len(self.tokens) else None

    def take(self, wanted=None):
        token = self.peek()
        if token is None or wanted is not None and token != wanted:
            raise Wrong(f"{wanted or 'more'} expected, not {token}")
        self.at += 1
        return token

    def names(self):
        """( a, b )"""
        found = []
        self.take("(")
        while self.peek() != ")":
            found.append(self.take())
            if self.peek() == ",":
                self.take()
        self.take(")")
        return set(found)

    def expression(self, level=0):
        if level == len(PRECEDENCE):
            return self.postfix()
        left = self.expression(level + 1)
        while self.peek() in PRECEDENCE[level]:
            left = self.operator(left, level)
        return left

    def operator(self, left, level):
        sign, matching, grouped, extra, is_bool = self.take(), None, False, set(), False
        while self.peek() in ("bool", "on", "ignoring", "group_left", "group_right"):
            word = self.take()
            if word == "bool":
                is_bool = True
            elif word in ("on", "ignoring"):
                matching = (word, self.names())
            else:
                grouped, extra = word, self.names() if self.peek() == "(" else set()
        right = self.expression(level + (sign != "^"))
        if left is None or right is None:
            return left if right is None else right
        self.match(sign, left, right, matching)
        if sign == "or":
            return left & right
        if sign in ("and", "unless"):
            return left
        many, one = (right, left) if grouped == "group_right" else (left, right)
        if not extra <= one:
            raise Wrong(f"{grouped} {sorted(extra - one)}: not on that side of {sign}")
        if grouped or sign in PRECEDENCE[2] and not is_bool:
            return many | extra
        return left if matching is None else matching[1] if matching[0] == "on" else left - matching[1]

    def match(self, sign, left, right, matching):
        if matching is None:
            if left != right and sign != "or":
                raise Wrong(f"{sign} can never match {sorted(left)} with {sorted(right)}")
        elif matching[0] == "on":
            for side in (left, right):
                if not matching[1] <= side:
                    raise Wrong(f"on {sorted(matching[1] - side)}: a side of {sign} has only {sorted(side)}")
        elif left - matching[1] != right - matching[1] or not matching[1] <= left | right:
            raise Wrong(f"{sign} ignoring {sorted(matching[1])} can never match {sorted(left)} with {sorted(right)}")

    def postfix(self):
        result = self.primary()
        while self.peek() in ("[", "offset", "@"):
            if self.take() == "[":
                while self.take() != "]":
                    pass
            else:
                if self.peek() == "-":
                    self.take()
                self.take()
        return result

    def primary(self):
        if self.peek() in ("-", "+"):
            self.take()
            return self.expression(5)
        if self.peek() == "(":
            self.take()
            result = self.expression()
            self.take(")")
            return result
        if self.kind() in ("number", "string"):
            self.take()
            return None
        if self.peek() == "{":
            raise Wrong("a selector names its metric first")
        name = self.take()
        if name in AGGREGATIONS and self.peek() in ("(", "by", "without"):
            return self.aggregation(name)
        if self.peek() == "(":
            return self.function(name)
        return self.selector(name)

    def arguments(self):
        found = []
        self.take("(")
        while self.peek() != ")":
            found.append(self.expression())
            if self.peek() == ",":
                self.take()
        self.take(")")
        return found

    def aggregation(self, name):
        grouping = (self.take(), self.names()) if self.peek() != "(" else None
        inner = self.arguments()[-1]
        if grouping is None and self.peek() in ("by", "without"):
            grouping = (self.take(), self.names())
        word, labels = grouping or ("by", set())
        if inner is None:
            raise Wrong(f"{name} of a number")
        if not labels <= inner:
            raise Wrong(f"{name} {word} {sorted(labels - inner)}: there are only {sorted(inner)}")
        return inner if name in KEEPING else labels if word == "by" else inner - labels

    def function(self, name):
        strings = [value[1:-1] for kind, value in self.tokens[self.at:] if kind == "string"]
        arguments = self.arguments()
        vectors = [labels for labels in arguments if labels is not None]
        if name in SCALARS:
            return None
        if name == "histogram_quantile":
            if "le" not in vectors[0]:
                raise Wrong("histogram_quantile of what has no le")
            return vectors[0] - {"le"}
        if name in ("label_replace", "label_join"):
            return vectors[0] | {strings[0]}
        if name in ("absent", "absent_over_time", "vector"):
            return set()
        if not vectors:
            raise Wrong(f"{name} of a number")
        return vectors[0]

    def selector(self, metric):
        labels, matchers = self.labels_of(metric), []
        if self.peek() == "{":
            self.take()
            while self.peek() != "}":
                label, sign, value = self.take(), self.take(), self.take()[1:-1]
                if label not in labels:
                    raise Wrong(f"{metric} has no label {label}")
                matchers.append((label, sign, value))
                if self.peek() == ",":
                    self.take()
            self.take("}")
        self.on_selector(metric, matchers)
        return set(labels)


def check(text, labels_of, on_selector=lambda metric, matchers: None):
    """The labels of the result. Raises Wrong; KeyError where labels_of does not know a metric."""
    reader = _Reader(text, labels_of, on_selector)
    result = reader.expression()
    if reader.peek() is not None:
        raise Wrong(f"more than one expression, from {reader.peek()}")
    return result
