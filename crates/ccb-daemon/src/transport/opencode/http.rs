//! The client of OpenCode's server: HTTP/1.1 on loopback, one connection for each call, and one for the events.
//!
//! It speaks to one process only: before a byte is written, the listener is known to belong to the agent's own
//! program. A stranger that has taken the port gets neither the password nor a prompt.

use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use data_encoding::BASE64;
use futures_util::FutureExt as _;
use futures_util::future::Fuse;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::process::{self, Identity};

/// How long a call may take: a loaded machine keeps OpenCode from answering for many seconds.
const CALL: Duration = Duration::from_secs(30);

/// How long the events may be silent: there is a heartbeat every 10 s.
const SILENCE: Duration = Duration::from_secs(45);

/// The size (bytes) of the largest head, and of the largest event or answer.
const HEAD: usize = 64 << 10;
const BODY: usize = 256 << 20;

/// A server, and whose it must be.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Its port on loopback.
    pub(crate) port: u16,
    /// The password that it was started with.
    pub(crate) password: String,
    /// The agent's program, which listens itself or by a child.
    pub(crate) program: Identity,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// Its body; null if it is none or no JSON.
    pub(crate) body: Value,
}

impl Answer {
    /// Returns the body of an answer that is none of a failure.
    pub(crate) fn good(self) -> anyhow::Result<Value> {
        ensure!((200..300).contains(&self.status), "OpenCode answered {}: {}", self.status, self.words());
        Ok(self.body)
    }

    /// Returns what it says of a failure.
    pub(crate) fn words(&self) -> String {
        let said = [&self.body["data"]["message"], &self.body["message"], &self.body["name"]];
        let said = said.into_iter().find_map(Value::as_str).map(str::to_owned);
        said.unwrap_or_else(|| format!("status {}", self.status))
    }
}

impl Server {
    /// Calls, and waits for the whole answer.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        self.call_within(CALL, method, path, body).await
    }

    /// Calls, and waits that long.
    pub(crate) async fn call_within(
        &self,
        time: Duration,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let answer = async {
            let (status, mut body) = self.send(method, path, body).await?;
            let mut text = Vec::new();
            while let Some(piece) = body.piece().await? {
                ensure!(text.len() + piece.len() <= BODY, "the answer is too large");
                text.extend(piece);
            }
            anyhow::Ok(Answer { status, body: serde_json::from_slice(&text).unwrap_or(Value::Null) })
        };
        tokio::time::timeout(time, answer)
            .await
            .with_context(|| format!("OpenCode did not answer to {method} {path}"))?
    }

    /// Subscribes to the events.
    pub(crate) async fn events(&self) -> anyhow::Result<Events> {
        let sent = tokio::time::timeout(CALL, self.send("GET", "/event", None));
        let (status, body) = sent.await.context("OpenCode did not answer to GET /event")??;
        ensure!(status == 200, "OpenCode answered {status} to GET /event");
        Ok(Events { body, heard: Instant::now(), text: Vec::new(), seen: 0 })
    }

    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<(u16, Body)> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.context("it does not listen yet")?;
        let ours = process::listens(&self.program, self.port);
        ensure!(ours, "port {} belongs to a process that is not the agent's: nothing is sent there", self.port);
        let (mut sender, connection) = http1::Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(stream)).await?;
        let mut connection = connection.fuse();
        let login = BASE64.encode(format!("opencode:{}", self.password).as_bytes());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("127.0.0.1:{}", self.port))
            .header(AUTHORIZATION, format!("Basic {login}"))
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "close")
            .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))?;
        let answer = moving(&mut connection, sender.send_request(request));
        let answer = answer.await.context("the connection broke before an answer")?;
        Ok((answer.status().as_u16(), Body { incoming: answer.into_body(), connection }))
    }
}

/// A connection, which is closed when it is dropped.
type Connection = Fuse<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>;

/// Does this work, and moves its connection meanwhile. In a task of its own the connection would take only one piece
/// ahead: who looks without waiting for what has come would miss the rest.
async fn moving<T>(connection: &mut Connection, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        // Its errors come to the work, too.
        let _ = connection.poll_unpin(context);
        work.as_mut().poll(context)
    })
    .await
}

/// A body on its way, and the connection that it comes over.
#[derive(Debug)]
struct Body {
    incoming: Incoming,
    connection: Connection,
}

impl Body {
    /// Waits for the next piece; none at the end. Waiting for it can be given up at any time.
    async fn piece(&mut self) -> anyhow::Result<Option<Bytes>> {
        while let Some(frame) = moving(&mut self.connection, self.incoming.frame()).await {
            if let Ok(piece) = frame.context("the answer broke off")?.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

/// The server's events.
#[derive(Debug)]
pub(crate) struct Events {
    body: Body,
    /// When something has come last. (Each wait for it may be shorter than the silence that is too long.)
    heard: Instant,
    /// What has come of lines that are not whole yet.
    text: Vec<u8>,
    /// How much of that has no line end.
    seen: usize,
}

impl Events {
    /// Waits for the data of the next event. Waiting for it can be given up at any time.
    pub(crate) async fn next(&mut self) -> anyhow::Result<String> {
        loop {
            while let Some(end) = self.text[self.seen..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=self.seen + end).collect();
                self.seen = 0;
                // OpenCode puts an event's data into one line.
                if let Some(data) = line.strip_prefix(b"data:") {
                    return Ok(String::from_utf8_lossy(data).trim().to_owned());
                }
            }
            self.seen = self.text.len();
            ensure!(self.text.len() <= BODY, "an event is too large");
            let piece = tokio::time::timeout_at(self.heard + SILENCE, self.body.piece()).await;
            match piece.context("OpenCode's events fell silent")?? {
                Some(piece) => {
                    self.heard = Instant::now();
                    self.text.extend(piece);
                }
                None => bail!("OpenCode ended its events"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn alone<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    /// Serves one connection with these bytes, a few at a time, and returns what it was sent.
    async fn serve(answer: &'static [u8], step: usize) -> (Server, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = vec![0; 4096];
            let length = stream.read(&mut got).await.unwrap();
            stream.set_nodelay(true).unwrap();
            for piece in answer.chunks(step) {
                // Who has read the last chunk may have gone already.
                if stream.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            String::from_utf8(got[..length].to_vec()).unwrap()
        });
        (Server { port, password: "pw".into(), program: Identity::own().unwrap() }, served)
    }

    #[test]
    fn answers_of_every_framing_are_read_whole_however_they_come() {
        let whole: [&[u8]; 3] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"a\":\"12345\"}",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n8\r\n\"12345\"}\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n{\"a\":\"12345\"}",
        ];
        for answer in whole {
            for step in [1, 3, 1000] {
                let (answer, got) = alone(async {
                    let (server, asked) = serve(answer, step).await;
                    (server.call("GET", "/x", None).await.unwrap(), asked.await.unwrap())
                });
                assert_eq!(answer.body["a"], "12345", "{answer:?}");
                assert!(got.contains("authorization: Basic b3BlbmNvZGU6cHc=\r\n"), "{got}");
            }
        }
    }

    #[test]
    fn an_answer_that_breaks_off_is_none() {
        let broken: [&[u8]; 3] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"a\":",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n",
            b"HTTP/1.1 200",
        ];
        for answer in broken {
            let said = alone(async { serve(answer, 1000).await.0.call("GET", "/x", None).await });
            assert!(said.is_err(), "{said:?}");
        }
    }

    #[test]
    fn events_come_one_by_one() {
        let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata: \r\n4\r\n{1}\n\r\n19\r\n\nevent: x\ndata: {2}\n\ndata\r\n7\r\n: {3}\n\n\r\n0\r\n\r\n";
        alone(async {
            for step in [1, 7, 1000] {
                let (server, _served) = serve(answer, step).await;
                let mut events = server.events().await.unwrap();
                for data in ["{1}", "{2}", "{3}"] {
                    assert_eq!(events.next().await.unwrap(), data);
                }
                assert!(events.next().await.is_err(), "the end");
            }
        });
    }

    #[test]
    fn all_that_has_come_is_heard_without_waiting() {
        let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                       9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n9\r\ndata: 3\n\n\r\n";
        alone(async {
            let (server, asked) = serve(answer, 1000).await;
            let mut events = server.events().await.unwrap();
            assert_eq!(events.next().await.unwrap(), "1");
            asked.await.unwrap();
            for data in ["2", "3"] {
                assert_eq!(events.next().now_or_never().unwrap().unwrap(), data);
            }
        });
    }

    #[test]
    fn silent_events_are_given_up_however_often_they_are_waited_for() {
        alone(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = Server { port, password: "pw".into(), program: Identity::own().unwrap() };
            let open = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
                stream
            };
            let (events, _open) = tokio::join!(server.events(), open);
            let mut events = events.unwrap();
            assert!(events.next().now_or_never().is_none());
            events.heard -= SILENCE;
            let said = events.next().await.unwrap_err();
            assert!(said.to_string().contains("fell silent"), "{said}");
        });
    }

    #[test]
    fn a_call_is_sent_whole_and_where_it_leads_is_not_followed() {
        let answer = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 2\r\n\r\n{}";
        let (answer, got) = alone(async {
            let (server, asked) = serve(answer, 1000).await;
            let body = serde_json::json!({"a": 1});
            (server.call("POST", "/x", Some(&body)).await.unwrap(), asked.await.unwrap())
        });
        assert_eq!(answer.status, 302);
        assert!(got.starts_with("POST /x HTTP/1.1\r\n") && got.contains("content-length: 7\r\n"), "{got}");
        assert!(got.ends_with("\r\n\r\n{\"a\":1}"), "{got}");
    }

    #[test]
    fn an_answer_that_does_not_end_in_time_is_none() {
        let said = alone(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = Server { port, password: "pw".into(), program: Identity::own().unwrap() };
            server.call_within(Duration::from_millis(20), "GET", "/x", None).await
        });
        assert!(said.unwrap_err().to_string().contains("did not answer to GET /x"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_stranger_on_the_port_is_sent_nothing() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let other = Identity::of(child.id()).unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Server { port, password: "secret".into(), program: other };
        let said = alone(server.call("GET", "/x", None)).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(said.to_string().contains("nothing is sent there"), "{said}");
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut got).unwrap();
        assert!(got.is_empty(), "{got:?}");
    }
}
