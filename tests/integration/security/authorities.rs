//! `--ca`: a private authority is trusted during a RUN and by rbuild itself, and is nowhere afterwards.

use std::{
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::Stand;
use crate::support::{Image, Layer, program_tree, skip, tool};

/// A web server on loopback whose certificate a private authority has signed: `openssl s_server`.
struct Https {
    child: Child,
    port: u16,
}

impl Https {
    fn start(folder: &Path) -> Option<Https> {
        let openssl = |arguments: &str| {
            let mut command = Command::new("openssl");
            command.args(arguments.split(' ')).current_dir(folder).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
        std::fs::write(folder.join("file"), "over private tls\n").unwrap();
        let steps = [
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=ca -addext basicConstraints=critical,CA:TRUE",
            "req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=localhost",
            "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 30 -extfile names",
        ];
        if !steps.iter().all(|step| openssl(step)) {
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-WWW", "-quiet", "-cert", "cert.pem", "-key", "key.pem", "-accept", &format!("127.0.0.1:{port}")]);
        let child = command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < until, "openssl s_server does not listen");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Some(Https { child, port })
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of the certificate that is in no other.
fn trace(pem: &Path) -> String {
    std::fs::read_to_string(pem).unwrap().lines().nth(3).unwrap().to_owned()
}

#[test]
fn a_private_authority_is_trusted_during_a_step_and_in_no_layer() {
    for stand in Stand::each() {
        let bed = &stand.bed;
        let Some(server) = Https::start(&bed.path("out")) else { return skip("openssl makes the certificates") };
        let tree = bed.path("context/tree");
        if program_tree("/usr/bin/curl", &tree).is_none() {
            return skip("no curl to be the client");
        }
        bed.user.own(&bed.path("context"));
        bed.user.own(&bed.path("out"));
        let base = Layer::new().directory("etc/").directory("etc/ssl/").directory("etc/ssl/certs/");
        let base = base.file("etc/ssl/certs/ca-certificates.crt", "# the image's own\n");
        Image::with_busybox([base]).write(&bed.path("layout"));
        bed.user.own(&bed.path("layout"));
        let ca = bed.path("out/ca.pem").display().to_string();
        let trace = trace(Path::new(&ca));
        let url = format!("https://localhost:{}/file", server.port);
        let layout = format!("base=oci-layout://{}", bed.path("layout").display());
        let archive = format!("type=tar,dest={}", bed.path("out/app.tar").display());
        let lines = format!(
            "FROM base\nCOPY tree /\nENV PATH=/bin:/usr/bin\nRUN /usr/bin/curl -sS {url}; cat /etc/ssl/certs/ca-certificates.crt; echo x > /made\n"
        );
        bed.dockerfile(&lines);
        let without = stand.build(&["--build-context", &layout, "--network", "host"]);
        without.does_not_say("over private tls").does_not_say(&trace);
        let with = ["--build-context", &layout, "--network", "host", "--ca", &ca, "-o", &archive, "--no-cache"];
        stand.build(&with).succeeds().says("over private tls").says(&trace).says("# the image's own");
        let mut text = Vec::new();
        std::fs::File::open(bed.path("out/app.tar")).unwrap().read_to_end(&mut text).unwrap();
        let holds = |words: &str| text.windows(words.len()).any(|part| part == words.as_bytes());
        assert!(holds("# the image's own\n") && !holds(&trace) && !holds("rbuild --ca"), "on {}", stand.rung);
        let listed = tool(Command::new("tar").arg("tf").arg(bed.path("out/app.tar")));
        assert!(!listed.contains("rbuild-ca"), "{listed}");

        // A bundle made anew in the step, as update-ca-certificates makes it, stays and is without ours.
        let store = "/etc/ssl/certs/ca-certificates.crt";
        bed.dockerfile(&format!(
            "FROM base\nRUN cp {store} {store}.new && echo '# the step was here' >> {store}.new && mv -f {store}.new {store}\n"
        ));
        stand.build(&with).succeeds();
        let listed = tool(Command::new("tar").args(["xOf"]).arg(bed.path("out/app.tar")).arg(store.trim_start_matches('/')));
        assert!(listed.contains("# the image's own") && listed.contains("# the step was here") && !listed.contains(&trace), "{listed}");

        // rbuild's own requests trust it too; the key does not hold it.
        bed.dockerfile(&format!("FROM base\nADD {url} /file\nRUN cat /file\n"));
        stand.build(&["--build-context", &layout]).fails();
        stand.build(&["--build-context", &layout, "--ca", &ca]).succeeds().says("over private tls");
        stand
            .build(&["--build-context", &layout, "--ca", &bed.path("out/names").display().to_string()])
            .fails_with(2)
            .says("no certificate");
    }
}
