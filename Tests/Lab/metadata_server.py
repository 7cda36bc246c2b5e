#!/usr/bin/python3
"""A metadata server that answers with what it was sent, as JSON: metadata_server.py ADDRESS PORT"""
import http.server
import json
import os
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        words = {"method": self.command, "path": self.path, "body": body,
                 "headers": {name.lower(): self.headers.get_all(name) for name in self.headers.keys()}}
        text = json.dumps(words).encode()
        self.send_response(404 if "missing" in self.path else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST = handle_any

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
os.write(1, b'{"listening": 80}\n')
server.serve_forever()
