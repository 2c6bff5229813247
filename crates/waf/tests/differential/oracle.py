"""Judges messages by libmodsecurity: a JSON list of messages on standard input, a JSON list of rule numbers for each on standard output."""

import ctypes
import json
import re
import sys

LIBRARY = ctypes.CDLL("libmodsecurity.so.3")
POINTER, TEXT, SIZE, NUMBER = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
# As its recommended configuration has it: what is said to be JSON or XML is read as that.
SETUP = b"""
SecRuleEngine DetectionOnly
SecRequestBodyAccess On
SecResponseBodyAccess On
SecResponseBodyMimeType text/plain text/html text/xml application/json
SecRule REQUEST_HEADERS:Content-Type "^(?:application(?:/soap\\+|/)|text/)xml" \
 "id:200000,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "^application/json" \
 "id:200001,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
"""


def function(name, result, *arguments):
    found = getattr(LIBRARY, name)
    found.restype, found.argtypes = result, arguments
    return found


init = function("msc_init", POINTER)
set_log = function("msc_set_log_cb", None, POINTER, POINTER)
create_rules = function("msc_create_rules_set", POINTER)
add_text = function("msc_rules_add", NUMBER, POINTER, TEXT, ctypes.POINTER(TEXT))
add_file = function("msc_rules_add_file", NUMBER, POINTER, TEXT, ctypes.POINTER(TEXT))
begin = function("msc_new_transaction", POINTER, POINTER, POINTER, POINTER)
connection = function("msc_process_connection", NUMBER, POINTER, TEXT, NUMBER, TEXT, NUMBER)
uri = function("msc_process_uri", NUMBER, POINTER, TEXT, TEXT, TEXT)
request_header = function("msc_add_n_request_header", NUMBER, POINTER, TEXT, SIZE, TEXT, SIZE)
request_headers = function("msc_process_request_headers", NUMBER, POINTER)
request_bytes = function("msc_append_request_body", NUMBER, POINTER, TEXT, SIZE)
request_body = function("msc_process_request_body", NUMBER, POINTER)
response_header = function("msc_add_n_response_header", NUMBER, POINTER, TEXT, SIZE, TEXT, SIZE)
response_headers = function("msc_process_response_headers", NUMBER, POINTER, NUMBER, TEXT)
response_bytes = function("msc_append_response_body", NUMBER, POINTER, TEXT, SIZE)
response_body = function("msc_process_response_body", NUMBER, POINTER)
end = function("msc_transaction_cleanup", None, POINTER)

lines = []


@ctypes.CFUNCTYPE(None, POINTER, TEXT)
def note(_, line):
    lines.append(line.decode("utf-8", "replace"))


def judge(engine, rules, message):
    del lines[:]
    run = begin(engine, rules, None)
    connection(run, b"192.0.2.7", 40000, b"192.0.2.1", 80)
    uri(run, message["target"].encode(), message["method"].encode(), b"1.1")
    for name, value in message["headers"]:
        name, value = name.encode(), value.encode()
        request_header(run, name, len(name), value, len(value))
    request_headers(run)
    body = message["body"].encode()
    request_bytes(run, body, len(body))
    request_body(run)
    if message["response"] is not None:
        del lines[:]
        response_header(run, b"content-type", 12, b"text/html", 9)
        response_headers(run, 200, b"HTTP/1.1")
        body = message["response"].encode()
        response_bytes(run, body, len(body))
        response_body(run)
    end(run)
    return sorted({int(number) for line in lines for number in re.findall(r'\[id "(\d+)"\]', line)})


def main(files):
    engine, rules, error = init(), create_rules(), TEXT()
    set_log(engine, ctypes.cast(note, POINTER))
    loaded = [add_text(rules, SETUP, ctypes.byref(error))]
    loaded += [add_file(rules, file.encode(), ctypes.byref(error)) for file in files]
    if min(loaded) < 0:
        sys.exit(f"libmodsecurity does not read the rules: {error.value}")
    json.dump([judge(engine, rules, message) for message in json.load(sys.stdin)], sys.stdout)


main(sys.argv[1:])
