#!/usr/bin/python3
"""Writes a man page, of man(7)'s macros, from Markdown and from what weir says of itself.
usage: man.py WEIR VERSION NAME.SECTION.md PAGE.gz

A line @NAME@ of the Markdown is replaced: @SYNOPSIS@ @OPTIONS@ @SIGNALS@ @EXIT@ by parts of `weir --help`, @NOTES@ and
@FIELDS@ by the list at the head of `weir --print-reference`, and its chapters. Of Markdown it knows headings,
paragraphs, lists, tables, code, and emphasis. The date is that of SOURCE_DATE_EPOCH, else today's.
"""
import gzip
import os
import re
import subprocess
import sys
import time


def say(weir, option):
    return subprocess.run([weir, option], check=True, capture_output=True, text=True, timeout=60).stdout


# -- what weir says ----------------------------------------------------------------------------------------------------

def table(rows):
    return "\n".join(["| | |", "|---|---|"] + [f"| {key} | {text} |" for key, text in rows])


def mark_up(usage):
    """Options and the program bold, what stands for a value in italics."""
    return re.sub(r"\bFILE\b", "*FILE*", re.sub(r"(?<![\w-])(weir|--?[a-z][a-z-]*)", r"`\1`", usage))


def sentence(text):
    return text[0].upper() + text[1:] + "."


def parts_of_help(text):
    usage, options, rest = re.fullmatch(r"usage: (.*)\n\n((?:  .*\n)+)\n((?:.*\n)+)", text).groups()
    signals = re.search(r"^Signals: (.*)\.$", rest, re.M).group(1)
    codes = re.search(r"^Exit: (.*)\.$", rest, re.M).group(1)
    return {
        "SYNOPSIS": mark_up(usage),
        "OPTIONS": table((mark_up(option), sentence(what))
                         for option, what in re.findall(r"^  (\S.*?)  +(.*)$", options, re.M)),
        "SIGNALS": table((re.sub(r"([A-Z]\w+)", r"`SIG\1`", names), sentence(what))
                         for names, what in re.findall(r"([A-Z]\w+(?: and [A-Z]\w+)*) ([^,]+)", signals)),
        "EXIT": table((f"`{code}`", sentence(what)) for code, what in re.findall(r"(\d) ([^,]+)", codes)),
    }


def parts_of_reference(text):
    notes, _, chapters = text.partition("\n## ")
    return {
        "NOTES": "\n".join(re.findall(r"^- .*", notes, re.M)),
        "FIELDS": re.sub(r"^## ", "### ", "## " + chapters, flags=re.M),
    }


def fill(markdown, weir):
    parts = {**parts_of_help(say(weir, "--help")), **parts_of_reference(say(weir, "--print-reference"))}
    return re.sub(r"^@([A-Z]+)@$", lambda m: parts[m.group(1)].strip("\n"), markdown, flags=re.M)


# -- Markdown to roff --------------------------------------------------------------------------------------------------

def plain(text):
    """Text as it is, whatever roff and its fonts would make of its characters."""
    for character, escape in (("\\", "\\e"), ("-", "\\-"), ("`", "\\(ga"), ("'", "\\(aq"), ("^", "\\(ha"), ("~", "\\(ti")):
        text = text.replace(character, escape)
    return text


def inline(text):
    out = ""
    for code, strong, emphasis, other in re.findall(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|(.[^`*]*)", text):
        bold = code or strong
        out += f"\\fB{plain(bold)}\\fR" if bold else f"\\fI{plain(emphasis)}\\fR" if emphasis else plain(other)
    return "\\&" + out if out[:1] in (".", "'") else out


def cells(row):
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def table_to_roff(rows):
    """A list: each row's first cell is the term, its last one the text; what is between stands before that."""
    heads, out = cells(rows[0]), []
    for row in rows[2:]:
        term, *facts, text = map(inline, cells(row))
        if len(heads) == 2:
            out += [".TP", term, text]
            continue
        facts = [f"default {fact}" if head == "default" and not re.search("default|required", fact) else fact
                 for head, fact in zip(heads[1:], facts) if fact]
        out += [".PP", term, ".RS 4", "; ".join(facts), ".br", text, ".RE"]
    return out


def block_to_roff(block):
    lines = block.split("\n")
    heading = re.fullmatch(r"##(#?) (.*)", block)
    if heading:
        return [f".{'SS' if heading.group(1) else 'SH'} \"{inline(heading.group(2))}\""]
    if block.startswith("|"):
        return table_to_roff(lines)
    if block.startswith("- "):
        return [line for item in lines for line in (".IP \\(bu 3", inline(item[2:]))]
    if block.startswith("    "):
        return [".PP", ".RS 4", ".nf"] + [inline(f"`{line[4:]}`") if line else "" for line in lines] + [".fi", ".RE"]
    return [".PP"] + [inline(line) for line in lines]


def to_roff(markdown):
    out = []
    for block in re.split(r"\n\n+", markdown.strip("\n")):
        made = block_to_roff(block)
        if made[0] == ".PP" and out[-1:] and out[-1].startswith((".SH", ".SS")):
            made = made[1:]
        out += made
    return out


def main(weir, version, source, target):
    name, section, _ = os.path.basename(source).rsplit(".", 2)
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    with open(source, encoding="utf-8") as f:
        body = to_roff(fill(f.read(), weir))
    lines = [f'.TH "{plain(name.upper())}" "{section}" "{date}" "weir {version}"', ".nh", ".ad l"] + body
    with open(target, "wb") as f:
        f.write(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
