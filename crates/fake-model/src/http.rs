//! A small blocking HTTP/1.1 server on loopback: one thread per connection, keep-alive.
//!
//! It knows bytes and headers, nothing of models. It reads bodies with a length and chunked ones,
//! and writes whole answers and event streams. It is for tests and trusts its clients to be
//! well-meaning, but not to be complete: a connection may end anywhere.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::Value;

/// No request line, header or chunk size is longer.
const LONGEST_LINE: u64 = 64 * 1024;

/// No request has more headers.
const MOST_HEADERS: usize = 256;

/// No request body is longer.
const LONGEST_BODY: u64 = 256 * 1024 * 1024;

/// A request that has arrived completely.
#[derive(Debug)]
pub struct Request {
    /// The method, in capitals.
    pub method: String,
    /// The target as it was sent, with its query.
    pub target: String,
    /// The body with the transfer coding removed.
    pub body: Vec<u8>,
    /// The headers in order, their names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// Returns the value of the first header of this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn header_says(&self, name: &str, word: &str) -> bool {
        self.header(name).is_some_and(|value| {
            let mut words = value.split(',');
            words.any(|known| known.trim().eq_ignore_ascii_case(word))
        })
    }
}

/// What becomes of a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It waits for the next request.
    Keep,
    /// It is closed at once, whatever has been announced.
    Close,
}

/// Writes the answer to one request.
pub struct Responder<'a> {
    out: &'a mut dyn Write,
    request_id: String,
}

impl<'a> Responder<'a> {
    /// Returns a responder that writes to `out` and names its answer `request_id`.
    pub fn new(out: &'a mut dyn Write, request_id: String) -> Self {
        Self { out, request_id }
    }

    /// Sends an answer without a body.
    pub fn empty(&mut self, code: u16) -> io::Result<Next> {
        self.head(code, "content-length: 0\r\n", b"")
    }

    /// Sends a JSON document.
    pub fn json(&mut self, code: u16, document: &Value) -> io::Result<Next> {
        self.json_under(code, "", document)
    }

    /// Sends a JSON document under these further header lines.
    pub fn json_under(&mut self, code: u16, headers: &str, document: &Value) -> io::Result<Next> {
        let body = document.to_string();
        let length = body.len();
        let headers = format!("content-type: application/json\r\ncontent-length: {length}\r\n{headers}");
        self.head(code, &headers, body.as_bytes())
    }

    /// Begins an event stream.
    pub fn events(&mut self) -> io::Result<Events<'_>> {
        let headers = "content-type: text/event-stream\r\ncache-control: no-cache\r\n\
                       transfer-encoding: chunked\r\n";
        self.head(200, headers, b"")?;
        Ok(Events { out: self.out })
    }

    fn head(&mut self, code: u16, headers: &str, body: &[u8]) -> io::Result<Next> {
        let (reason, id) = (reason(code), &self.request_id);
        let head = format!("HTTP/1.1 {code} {reason}\r\nrequest-id: {id}\r\n{headers}\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.out.write_all(&bytes)?;
        Ok(Next::Keep)
    }
}

/// Writes server-sent events, each as one chunk and one write.
pub struct Events<'a> {
    out: &'a mut dyn Write,
}

impl Events<'_> {
    /// Sends one event.
    pub fn event(&mut self, name: &str, data: &Value) -> io::Result<()> {
        self.chunk(&format!("event: {name}\ndata: {data}\n\n"))
    }

    /// Sends one event whose data, an object, repeats its name as the type.
    pub fn typed(&mut self, name: &str, mut data: Value) -> io::Result<()> {
        data["type"] = Value::from(name);
        self.event(name, &data)
    }

    /// Sends data without a name, which need not be JSON.
    pub fn data(&mut self, data: &str) -> io::Result<()> {
        self.chunk(&format!("data: {data}\n\n"))
    }

    /// Sends a text that is no event.
    pub fn raw(&mut self, text: &str) -> io::Result<()> {
        self.chunk(text)
    }

    /// Sends a comment, which clients take for a sign of life.
    pub fn comment(&mut self, text: &str) -> io::Result<()> {
        self.chunk(&format!(": {text}\n\n"))
    }

    /// Ends the stream properly; a stream that is not ended was cut.
    pub fn end(self) -> io::Result<Next> {
        self.out.write_all(b"0\r\n\r\n")?;
        Ok(Next::Keep)
    }

    fn chunk(&mut self, text: &str) -> io::Result<()> {
        let length = text.len();
        let chunk = format!("{length:x}\r\n{text}\r\n");
        self.out.write_all(chunk.as_bytes())
    }
}

fn reason(code: u16) -> &'static str {
    match code {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        529 => "Overloaded",
        _ => "Status",
    }
}

/// What answers requests; called from many threads at once.
pub trait Answers: Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: &Request, out: &mut dyn Write) -> io::Result<Next>;
}

/// A listening server; dropping it ends the listening, not the connections that are open.
pub struct Listening {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    /// Listens on loopback; port 0 takes one that is free.
    pub fn start(port: u16, answers: Arc<impl Answers>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let port = listener.local_addr()?.port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread =
            thread::Builder::new().name("accept".to_owned()).spawn(move || accept(&listener, &stopped, &answers))?;
        let thread = Some(thread);
        Ok(Self { port, stop, thread })
    }

    /// Returns the port that is listened on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until the listening ends, which it does not by itself.
    pub fn wait(mut self) {
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // The thread waits in `accept`; a connection wakes it. Without one it must not be awaited.
        if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
            self.join();
        }
    }
}

fn accept(listener: &TcpListener, stop: &AtomicBool, answers: &Arc<impl Answers>) {
    for stream in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        // A client that is gone again, or a moment without descriptors, is no reason to end.
        let Ok(stream) = stream else { continue };
        let answers = Arc::clone(answers);
        let connection = thread::Builder::new().name("connection".to_owned());
        // Without a thread the connection is dropped, and the client sees it closed.
        let _ = connection.spawn(move || {
            // An error here is a connection that ended; requests cut short are in the log.
            let _ = serve(&stream, answers.as_ref());
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

fn serve(stream: &TcpStream, answers: &impl Answers) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let request = match read_request(&mut reader, &mut writer) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let refusal = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
                return writer.write_all(refusal);
            }
            Err(error) => return Err(error),
        };
        let next = answers.answer(&request, &mut writer)?;
        if next == Next::Close || request.header_says("connection", "close") {
            return Ok(());
        }
    }
}

/// Reads one request; `None` means that the connection ended before one began.
fn read_request(reader: &mut impl BufRead, writer: &mut impl Write) -> io::Result<Option<Request>> {
    let Some(first) = read_line(reader)? else {
        return Ok(None);
    };
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(invalid("the request line is not one of HTTP/1"));
    };
    let mut headers = read_headers(reader)?;
    if first.ends_with("1.0") {
        // HTTP/1.0 ends a connection with the answer unless both sides say otherwise.
        headers.insert(0, ("connection".to_owned(), "close".to_owned()));
    }
    let mut request = Request { method: method.to_owned(), target: target.to_owned(), body: Vec::new(), headers };
    if request.header_says("expect", "100-continue") {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    request.body = if request.header_says("transfer-encoding", "chunked") {
        read_chunks(reader)?
    } else {
        let length = request.header("content-length").unwrap_or("0");
        let length = length.parse();
        let length = length.map_err(|_| invalid("content-length is not a number"))?;
        read_exactly(reader, length)?
    };
    Ok(Some(request))
}

fn read_headers(reader: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(headers);
        }
        let colon = line.split_once(':');
        let (name, value) = colon.ok_or_else(|| invalid("a header has no colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        if headers.len() > MOST_HEADERS {
            return Err(invalid("there are too many headers"));
        }
    }
}

fn read_chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| invalid("not a chunk size"))?;
        if size == 0 {
            // What follows are trailers, which nobody here needs, and an empty line.
            read_headers(reader)?;
            return Ok(body);
        }
        body.append(&mut read_exactly(reader, size)?);
        if u64::try_from(body.len()).unwrap_or(u64::MAX) > LONGEST_BODY {
            return Err(invalid("the body is too long"));
        }
        read_line(reader)?;
    }
}

fn read_exactly(reader: &mut impl BufRead, length: u64) -> io::Result<Vec<u8>> {
    if length > LONGEST_BODY {
        return Err(invalid("the body is too long"));
    }
    let mut bytes = Vec::new();
    let read = reader.take(length).read_to_end(&mut bytes)?;
    if u64::try_from(read).ok() != Some(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// Reads a line without its end; `None` means that there is no more.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let read = reader.take(LONGEST_LINE).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        let cut = u64::try_from(read).unwrap_or(u64::MAX) < LONGEST_LINE;
        let ended = io::Error::from(io::ErrorKind::UnexpectedEof);
        return Err(if cut { ended } else { invalid("a line is too long") });
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    let line = String::from_utf8(line);
    line.map(Some).map_err(|_| invalid("a line is not UTF-8"))
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Option<Request>> {
        read_request(&mut &bytes[..], &mut io::sink())
    }

    #[test]
    fn bodies_are_read_with_a_length_and_in_chunks() {
        let plain = b"POST /a?b=1 HTTP/1.1\r\nContent-Length: 5\r\nX-A:  b \r\n\r\nhello";
        let chunked = b"POST /a?b=1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n\
                        2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nT: x\r\n\r\n";
        for bytes in [&plain[..], &chunked[..]] {
            let request = read(bytes).unwrap().unwrap();
            assert_eq!(request.body, b"hello");
            assert_eq!((request.path(), request.target.as_str()), ("/a", "/a?b=1"));
            assert_eq!(request.header("x-a"), Some("b"));
        }
    }

    #[test]
    fn a_connection_may_end_anywhere() {
        let whole = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi";
        assert!(read(b"").unwrap().is_none());
        for end in 1..whole.len() {
            let error = read(&whole[..end]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "at {end}");
        }
    }

    #[test]
    fn what_is_not_http_is_refused() {
        let long = format!("GET /{}", "x".repeat(70_000));
        let table: [&[u8]; 5] = [
            b"hello\r\n\r\n",
            b"GET / HTTP/2\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
            long.as_bytes(),
        ];
        for bytes in table {
            let error = read(bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_client_that_waits_is_told_to_continue() {
        let mut bytes = &b"POST / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n"[..];
        let mut told = Vec::new();
        read_request(&mut bytes, &mut told).unwrap().unwrap();
        assert_eq!(told, b"HTTP/1.1 100 Continue\r\n\r\n");
    }
}
