"""An OTLP/HTTP receiver of logs over TLS, with OpenTelemetry's own types: one line of JSON for each request.

collector.py CERTIFICATE KEY REJECTED     its first line says the port. It reports REJECTED records of each request as refused.
"""

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from google.protobuf.json_format import MessageToDict
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

certificate, key, rejected = sys.argv[1:4]


def unknown(message):
    """Fields that the types do not know, in a message and all below it."""
    count = len(UnknownFieldSet(message))
    for field, value in message.ListFields():
        if field.message_type is not None:
            many = value if isinstance(value, (list, tuple)) or hasattr(value, "add") else [value]
            count += sum(unknown(one) for one in many)
    return count


class Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        request = ExportLogsServiceRequest()
        request.ParseFromString(body)
        got = {
            "path": self.path,
            "content_type": self.headers["content-type"],
            "key": self.headers["x-key"],
            "unknown": unknown(request),
            "same": request.SerializeToString(deterministic=True) == body,
            "request": MessageToDict(request),
        }
        print(json.dumps(got), flush=True)
        answer = ExportLogsServiceResponse()
        answer.partial_success.rejected_log_records = int(rejected)
        text = answer.SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Collector)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(json.dumps({"port": server.server_port}), flush=True)
server.serve_forever()
