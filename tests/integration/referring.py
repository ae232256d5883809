"""Stands before a registry that knows no referrers and lists them itself, two on a page, as OCI's distribution
specification 1.1 has it. The first manifest with a subject is refused, as by a registry that wants the subject to be
there before it.

    referring.py UPSTREAM

Prints `listening on http://ADDRESS`.
"""

import http.client, http.server, json, re, sys, urllib.parse, hashlib

UPSTREAM = sys.argv[1]
PAGE = 2
# (repository, subject) -> descriptors.
REFERRERS = {}
REFUSED = set()


def descriptor_of(media_type, body):
    manifest = json.loads(body)
    digest = "sha256:" + hashlib.sha256(body).hexdigest()
    found = {"mediaType": media_type, "digest": digest, "size": len(body), "annotations": manifest.get("annotations", {})}
    found["artifactType"] = manifest.get("artifactType") or manifest["config"]["mediaType"]
    return manifest.get("subject", {}).get("digest"), found


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if asked := re.fullmatch(r"/v2/(.+)/referrers/(sha256:[0-9a-f]{64})(?:\?(.*))?", self.path):
            return self.list(*asked.groups())
        put = re.fullmatch(r"/v2/(.+)/manifests/[^/]+", self.path) if self.command == "PUT" else None
        subject = json.loads(body).get("subject", {}).get("digest") if put else None
        if subject and subject not in REFUSED:
            REFUSED.add(subject)
            error = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "the subject is not here"}]}).encode()
            return self.answer(404, [("Content-Type", "application/json")], error, str(len(error)))
        headers = {name: value for name, value in self.headers.items()}
        connection = http.client.HTTPConnection(UPSTREAM)
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        data = response.read()
        kept = [pair for pair in response.getheaders() if pair[0].lower() not in ("content-length", "transfer-encoding", "connection")]
        if put and response.status == 201:
            subject, descriptor = descriptor_of(self.headers["content-type"], body)
            if subject:
                REFERRERS.setdefault((put[1], subject), {})[descriptor["digest"]] = descriptor
                kept.append(("OCI-Subject", subject))
        length = response.getheader("content-length", "0") if self.command == "HEAD" else str(len(data))
        self.answer(response.status, kept, data, length)

    def list(self, repository, subject, query):
        start = int(urllib.parse.parse_qs(query or "").get("from", ["0"])[0])
        everything = list(REFERRERS.get((repository, subject), {}).values())
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": everything[start : start + PAGE]}
        headers = [("Content-Type", index["mediaType"])]
        if len(everything) > start + PAGE:
            headers.append(("Link", f'</v2/{repository}/referrers/{subject}?from={start + PAGE}>; rel="next"'))
        data = json.dumps(index).encode()
        self.answer(200, headers, data, str(len(data)))

    def answer(self, status, headers, data, length):
        self.send_response_only(status)
        for name, value in [*headers, ("Content-Length", length)]:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
