//! Starts nodens as a library, queries a name, and stops it: `cargo run --example embed`.

use std::error::Error;
use std::net::UdpSocket;
use std::time::Duration;

use nodens::app::start;
use nodens::config::parse::parse;
use nodens::wire::response::{ResponseMessage, Section};

/// Configuration of the example. Port 0 takes any free port. nodens answers the record itself and queries no server.
const CONFIGURATION: &str = r#"
[server]
listen = ["127.0.0.1:0"]
workers = 1

[upstreams.public]
servers = ["192.0.2.53"]

[[route]]
zones = ["."]
to = "public"

[[record]]
name = "cache.corp.example"
type = "A"
value = "10.0.3.99"
"#;

/// Query for the A record of `cache.corp.example`: header, question.
const QUERY: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x05cache\x04corp\x07example\0\0\x01\0\x01";

fn main() -> Result<(), Box<dyn Error>> {
    let config = parse(CONFIGURATION, &[]).map_err(|diagnostics| format!("{diagnostics:?}"))?;
    let running = start(config)?;
    let server = running.listen_addresses().first().copied().ok_or("no listener")?;

    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.send_to(QUERY, server)?;
    let mut buffer = [0; 4_096];
    let (len, _) = socket.recv_from(&mut buffer)?;
    let response = ResponseMessage::read(&buffer[..len])?;
    for record in response.section(Section::Answer) {
        println!("{} {:?}, for {} s", record.rtype, record.rdata(&buffer[..len]), record.ttl(&buffer[..len]));
    }
    let unanswered = running.stop();
    println!("stopped, {unanswered} queries unanswered");
    Ok(())
}
