"""A service over TLS on loopback. Says its port as JSON, then answers every request with what it was sent.

Usage: https_service.py CHAIN_PEM KEY_PEM. A path that begins with /to? is a redirect to what stands behind the question mark.
"""
import http.server
import json
import ssl
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", "0"))).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        told = json.dumps({"method": self.command, "path": self.path, "headers": headers, "body": body}).encode()
        if self.path.startswith("/to?"):
            self.send_response(307)
            self.send_header("location", self.path.removeprefix("/to?"))
        else:
            self.send_response(200)
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_GET = do_POST


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(json.dumps({"port": server.server_address[1]}), flush=True)
server.serve_forever()
