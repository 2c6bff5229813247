"""The guide's clinic, served by the unmodified Python SDK. One argument: JSON, see ../README.md."""

import asyncio
import json
import sys

import ngrok


async def main():
    want = json.loads(sys.argv[1])
    ca = bytearray(open(want["ca"], "rb").read())
    builder = ngrok.SessionBuilder().authtoken(want["authtoken"]).server_addr(want["server"]).ca_cert(ca)
    session = await builder.connect()
    refused = ""
    try:
        await session.http_endpoint().domain(want["foreign"]).listen()
    except Exception as error:
        refused = str(error)
    http, tcp = f"http://127.0.0.1:{want['http']}", f"tcp://127.0.0.1:{want['tcp']}"
    listeners = [
        await session.http_endpoint().domain(want["https_host"]).listen_and_forward(http),
        await session.tls_endpoint().domain(want["tls_host"]).listen_and_forward(tcp),
        await session.tcp_endpoint().remote_addr(want["tcp_addr"]).listen_and_forward(tcp),
    ]
    print(json.dumps({"refused": refused, "urls": [listener.url() for listener in listeners]}), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
