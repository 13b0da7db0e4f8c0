//! What the tests of WebSocket and of the HTTP front share: nodes that answer MQTT, WebSocket and HTTP and remember
//! what came, and raw clients.

#![allow(
    dead_code,
    reason = "every test file compiles this module and uses another part of it"
)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

use tungstenite::Message;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};

use crate::proxied::{PATIENCE, connect_packet};

pub const MQTT: u16 = 1883;
pub const WEBSOCKET: u16 = 8083;
pub const DASHBOARD: u16 = 18083;

/// An address of loopback that no other test uses, other processes' included.
pub fn address() -> IpAddr {
    static NUMBER: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let own = NUMBER.fetch_add(1, Relaxed);
    Ipv4Addr::new(127, 100 + high % 100, low, own).into()
}

/// What a node's WebSocket got: its request, and the bytes behind it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What came before the request.
    pub before: Vec<u8>,
    pub head: String,
    pub frames: Vec<u8>,
}

/// A node. It answers a CONNECT with a CONNACK and its number, and then echoes.
pub struct Node {
    pub ip: IpAddr,
    pub number: u8,
    seen: Arc<Mutex<Vec<Arc<Mutex<Seen>>>>>,
}

impl Node {
    pub fn start(number: u8) -> Self {
        let node = Self::without_websocket(number);
        let (ip, seen) = (node.ip, node.seen.clone());
        listen(ip, WEBSOCKET, move |stream| {
            let one = Arc::new(Mutex::new(Seen::default()));
            seen.lock().unwrap().push(one.clone());
            websocket(stream, number, &one);
        });
        node
    }

    pub fn without_websocket(number: u8) -> Self {
        let ip = address();
        listen(ip, MQTT, move |stream| drop(mqtt(stream, number)));
        listen(ip, DASHBOARD, move |stream| drop(dashboard(stream, number)));
        Self {
            ip,
            number,
            seen: Arc::default(),
        }
    }

    pub fn mqtt(&self) -> SocketAddr {
        SocketAddr::new(self.ip, MQTT)
    }

    /// What its last WebSocket got so far.
    pub fn last(&self) -> Seen {
        let all = self.seen.lock().unwrap();
        let last = all.last().expect("a WebSocket");
        last.lock().unwrap().clone()
    }

    pub fn websockets(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

pub fn listen(ip: IpAddr, port: u16, serve: impl Fn(TcpStream) + Clone + Send + 'static) {
    let listener = TcpListener::bind((ip, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
}

fn mqtt(mut stream: TcpStream, number: u8) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    let n = stream.read(&mut buffer)?;
    if n == 0 || buffer[0] != 0x10 {
        return Ok(());
    }
    stream.write_all(&[0x20, 2, 0, 0, number])?;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

/// Remembers what is read.
struct Recorder(TcpStream, Arc<Mutex<Seen>>);

impl Read for Recorder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buffer)?;
        self.1.lock().unwrap().frames.extend(&buffer[..n]);
        Ok(n)
    }
}

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[expect(
    clippy::result_large_err,
    reason = "the library has a callback return it"
)]
fn websocket(mut stream: TcpStream, number: u8, seen: &Arc<Mutex<Seen>>) {
    // A PROXY header, if there is one, and the request: byte by byte, to stop behind it.
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"GET ") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_err() {
            return;
        }
        head.push(byte[0]);
    }
    let before = head[..head.len() - 4].to_vec();
    seen.lock().unwrap().before = before;
    let mut head = head.split_off(head.len() - 4);
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_err() {
            return;
        }
        head.push(byte[0]);
    }
    seen.lock().unwrap().head = String::from_utf8_lossy(&head).into_owned();
    let answer = |_: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let mqtt = "mqtt".parse().unwrap();
        response
            .headers_mut()
            .insert("sec-websocket-protocol", mqtt);
        Ok(response)
    };
    // The request once more, then what is recorded.
    let again = Again {
        head: io::Cursor::new(head),
        rest: Recorder(stream, seen.clone()),
    };
    let Ok(mut socket) = tungstenite::accept_hdr(again, answer) else {
        return;
    };
    let mut answered = false;
    let mut message = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Binary(bytes)) if !answered => {
                // A CONNECT may have several messages.
                message.extend(bytes);
                if message.len() < 2 || message.len() < 2 + usize::from(message[1]) {
                    continue;
                }
                answered = true;
                let connack = vec![0x20, 2, 0, 0, number];
                if socket.send(Message::Binary(connack.into())).is_err() {
                    return;
                }
            }
            Ok(Message::Binary(bytes)) => {
                if socket.send(Message::Binary(bytes)).is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

struct Again {
    head: io::Cursor<Vec<u8>>,
    rest: Recorder,
}

impl Read for Again {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.head.read(buffer)? {
            0 => self.rest.read(buffer),
            n => Ok(n),
        }
    }
}

impl Write for Again {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.rest.flush()
    }
}

/// Answers who it is and what it was asked; `/upload` how much came, `/download/N` so many bytes.
fn dashboard(stream: TcpStream, number: u8) -> io::Result<()> {
    let mut reader = io::BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            reader.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let length = header(&head, "content-length").map_or(0, |l| l.parse().unwrap());
        let came = io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
        let extra = "Keep-Alive: timeout=5\r\nX-Node: yes\r\n";
        if let Some(n) = path.strip_prefix("/download/") {
            let n: usize = n.parse().unwrap();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\n{extra}Content-Length: {n}\r\n\r\n"
            )?;
            let chunk = vec![b'd'; 65_536];
            let mut left = n;
            while left > 0 {
                let some = left.min(chunk.len());
                stream.write_all(&chunk[..some])?;
                left -= some;
            }
            continue;
        }
        let body = if path == "/upload" {
            format!("{came} bytes")
        } else {
            format!("dashboard of {number}\n{head}")
        };
        write!(
            stream,
            "HTTP/1.1 200 OK\r\n{extra}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
}

/// The value of a header, all lines of that name joined.
pub fn header(head: &str, name: &str) -> Option<String> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let found: Vec<_> = lines
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect();
    (!found.is_empty()).then(|| found.join(", "))
}

pub fn tcp(to: SocketAddr) -> TcpStream {
    try_tcp(to).unwrap()
}

/// Who is not wanted may be reset before the connection is there.
pub fn try_tcp(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads the head of an answer, and no byte more.
pub fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Sends a request and reads the answer, whose length is given: its head and its body.
pub fn ask(stream: &mut TcpStream, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let head = read_head(stream).unwrap();
    let length = header(&head, "content-length").map_or(0, |l| l.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8_lossy(&body).into_owned())
}

pub const UPGRADE: &str = "GET /mqtt HTTP/1.1\r\nHost: mqtt.example\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// A client whose handshake is done.
pub fn upgraded(to: SocketAddr) -> TcpStream {
    let mut stream = tcp(to);
    stream.write_all(UPGRADE.as_bytes()).unwrap();
    let head = read_head(&mut stream).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let accept = header(&head, "sec-websocket-accept");
    assert_eq!(accept.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(
        header(&head, "sec-websocket-protocol").as_deref(),
        Some("mqtt")
    );
    stream
}

/// A client's frame; `first` has its bits and its opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x1f, first, 0xa7, 0x03];
    let mut out = vec![first];
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out.extend(key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    out
}

/// The next frame from the server: its first byte and its payload. `None`: the connection is over.
pub fn next(stream: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    let length = match head[1] {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            u64::from(u16::from_be_bytes(length))
        }
        127 => {
            let mut length = [0; 8];
            stream.read_exact(&mut length).ok()?;
            u64::from_be_bytes(length)
        }
        short => u64::from(short),
    };
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).ok()?;
    Some((head[0], payload))
}

/// A client over WebSocket that was served, and the number of its node.
pub fn client(to: SocketAddr, id: &str) -> (TcpStream, u8) {
    let mut stream = upgraded(to);
    stream.write_all(&frame(0x82, &connect_packet(id))).unwrap();
    let (first, connack) = next(&mut stream).expect("a CONNACK");
    assert_eq!((first, &connack[..4]), (0x82, &[0x20, 2, 0, 0][..]));
    (stream, connack[4])
}

/// What the server closes with.
pub fn closed(stream: &mut TcpStream) -> Option<u16> {
    match next(stream)? {
        (0x88, payload) => Some(u16::from_be_bytes(payload[..2].try_into().unwrap())),
        other => panic!("no close frame: {other:02x?}"),
    }
}
