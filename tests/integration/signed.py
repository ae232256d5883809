"""Stands before an S3 server and lets through only what is signed with the key that it is told: botocore, AWS's own
client, works each signature out again from what came over the wire. (moto can check signatures too, but takes the path
as it decoded it, and so refuses what AWS's client signs where a name has a colon.)

    signed.py UPSTREAM KEY SECRET

Prints `listening on http://ADDRESS`.
"""

import hashlib, http.client, http.server, re, sys, urllib.parse
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

UPSTREAM, KEY, SECRET = sys.argv[1:]
NEVER_LEFT_OUT = {"host", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"}


def wrong_with(method, path, headers, body):
    """What is wrong with a request's signature, or nothing."""
    said = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})",
        headers.get("authorization", ""),
    )
    if not said:
        return "no signature of version 4"
    key, _, region, signed, signature = said.groups()
    signed = signed.split(";")
    if key != KEY:
        return f"nobody's key {key}"
    if left_out := {name for name in headers if name in NEVER_LEFT_OUT} - set(signed):
        return f"{left_out} not signed"
    digest = headers.get("x-amz-content-sha256")
    if digest not in ("UNSIGNED-PAYLOAD", hashlib.sha256(body).hexdigest()):
        return f"{digest} is not the body's digest"
    where, _, query = path.partition("?")
    # As the server does it: the path is what it means, written in the one way.
    where = urllib.parse.quote(urllib.parse.unquote_to_bytes(where), safe="/-_.~")
    request = AWSRequest(method, f"http://{headers['host']}{where}?{query}", {name: headers[name] for name in signed}, body)
    request.context["timestamp"] = headers["x-amz-date"]
    signer = S3SigV4Auth(Credentials(KEY, SECRET), "s3", region)
    expected = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    return "" if signature == expected else f"another signature than {expected}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        if wrong := wrong_with(self.command, self.path, headers, body):
            text = f"<Error><Code>SignatureDoesNotMatch</Code><Message>{wrong}</Message></Error>".encode()
            return self.answer(403, [("content-type", "application/xml")], text)
        connection = http.client.HTTPConnection(UPSTREAM)
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        data = response.read()
        skipped = {"connection", "transfer-encoding", "date", "server"} | (set() if self.command == "HEAD" else {"content-length"})
        self.answer(response.status, [pair for pair in response.getheaders() if pair[0].lower() not in skipped], data)

    def answer(self, status, headers, data):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD" or not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
