//! MCP's messages as lines, and receipts: askd hears of a reply's delivery only after the reply was written.
//!
//! A tool's result leaves its function before it is written. So what acknowledges it is kept here by the number
//! of its call, and is run by whoever has written and flushed the line. A receipt that is dropped closes its
//! connection, and askd keeps the reply, or brings it by itself.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rmcp::RoleServer;
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, ErrorCode, ErrorData, JsonRpcMessage, RequestId,
    ServerJsonRpcMessage,
};
use rmcp::transport::Transport;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

/// What is done once the result has been written; dropped where that never happens.
pub(super) type Receipt = Box<dyn FnOnce() + Send>;

/// The receipts of the calls that are open, by their numbers.
#[derive(Clone, Default)]
pub(super) struct Receipts(Arc<Mutex<HashMap<RequestId, Option<Receipt>>>>);

impl Receipts {
    /// Keeps a call's receipt until its result is written. That of a call that was given up is dropped.
    pub(super) fn keep(&self, call: &RequestId, receipt: Receipt) {
        if let Some(open) = self.open().get_mut(call) {
            *open = Some(receipt);
        }
    }

    fn begin(&self, call: RequestId) {
        self.open().insert(call, None);
    }

    /// Ends a call, and returns its receipt if it has one.
    fn end(&self, call: &RequestId) -> Option<Receipt> {
        self.open().remove(call).flatten()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<RequestId, Option<Receipt>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines from a reader on another thread, and lines to `W`.
pub(super) struct Stdio<W> {
    lines: UnboundedReceiver<String>,
    out: Arc<Mutex<W>>,
    receipts: Receipts,
    /// Whether the client has begun the session: before it, only calls mean anything.
    begun: bool,
}

/// A message that is answered here, and how.
#[derive(Debug)]
struct Refused {
    id: Option<RequestId>,
    error: ErrorData,
}

impl<W: Write + Send + 'static> Stdio<W> {
    pub(super) fn new(lines: UnboundedReceiver<String>, out: W, receipts: Receipts) -> Self {
        Self { lines, out: Arc::new(Mutex::new(out)), receipts, begun: false }
    }

    /// Reads a line. What is not for the session is answered here, as far as it can be.
    fn understand(&mut self, line: &str) -> Result<Option<ClientJsonRpcMessage>, Refused> {
        let refused = |code, text: String, id| Err(Refused { id, error: ErrorData::new(code, text, None) });
        let value: Value = match serde_json::from_str(line) {
            Ok(value) => value,
            Err(error) => return refused(ErrorCode::PARSE_ERROR, format!("not a line of JSON: {error}"), None),
        };
        let id = serde_json::from_value::<RequestId>(value["id"].clone()).ok();
        // A draft's way to begin. Its senders go on with `initialize` when it is unknown, which is all we promise.
        if value["method"] == "server/discover" {
            return refused(ErrorCode::METHOD_NOT_FOUND, "server/discover is not known here".into(), id);
        }
        let message: ClientJsonRpcMessage = match serde_json::from_value(value) {
            Ok(message) => message,
            Err(_) if id.is_none() => return Ok(None),
            Err(error) => return refused(ErrorCode::INVALID_REQUEST, format!("not understood: {error}"), id),
        };
        match &message {
            JsonRpcMessage::Request(call) => {
                self.begun |= matches!(call.request, ClientRequest::InitializeRequest(_));
                self.receipts.begin(call.id.clone());
            }
            // A notification before its time would end the session.
            _ if !self.begun => return Ok(None),
            JsonRpcMessage::Notification(told) => {
                if let ClientNotification::CancelledNotification(cancelled) = &told.notification
                    && let Some(call) = &cancelled.params.request_id
                {
                    drop(self.receipts.end(call));
                }
            }
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => {}
        }
        Ok(Some(message))
    }
}

impl<W: Write + Send + 'static> Transport<RoleServer> for Stdio<W> {
    type Error = io::Error;

    fn send(&mut self, message: ServerJsonRpcMessage) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let (out, receipts) = (self.out.clone(), self.receipts.clone());
        async move {
            let call = match &message {
                JsonRpcMessage::Response(response) => Some(response.id.clone()),
                JsonRpcMessage::Error(error) => error.id.clone(),
                JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => None,
            };
            let mut line = serde_json::to_vec(&message)?;
            line.push(b'\n');
            let written = tokio::task::spawn_blocking(move || {
                let written = write(&mut *out.lock().unwrap_or_else(PoisonError::into_inner), &line);
                let receipt = call.and_then(|call| receipts.end(&call));
                if let (Ok(()), Some(receipt)) = (&written, receipt) {
                    receipt();
                }
                written
            });
            written.await.map_err(io::Error::other)?
        }
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        loop {
            let line = self.lines.recv().await?;
            if line.trim().is_empty() {
                continue;
            }
            match self.understand(&line) {
                Ok(Some(message)) => return Some(message),
                Ok(None) => {}
                Err(Refused { id, error }) => self.send(JsonRpcMessage::error(error, id)).await.ok()?,
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(out: &mut impl Write, line: &[u8]) -> io::Result<()> {
    out.write_all(line)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rmcp::model::{CallToolResult, ContentBlock, ServerResult};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use tokio::sync::mpsc::unbounded_channel;

    /// A writer of which each step is allowed, or fails, when the test says so.
    struct Gate {
        told: Sender<&'static str>,
        allowed: Receiver<io::Result<()>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.told.send("writes").unwrap();
            self.allowed.recv().unwrap().map(|()| bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.told.send("flushes").unwrap();
            self.allowed.recv().unwrap()
        }
    }

    struct World {
        transport: Stdio<Gate>,
        told: Receiver<&'static str>,
        allow: Sender<io::Result<()>>,
        acknowledged: Sender<&'static str>,
    }

    /// Returns a transport with one open call, number 7, and its receipt.
    fn world() -> World {
        let (tell, told) = channel();
        let (allow, allowed) = channel();
        let (_, lines) = unbounded_channel();
        let out = Gate { told: tell.clone(), allowed };
        let mut transport = Stdio::new(lines, out, Receipts::default());
        heard(
            &mut transport,
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}"#,
        );
        heard(
            &mut transport,
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"ask","arguments":{}}}"#,
        );
        World { transport, told, allow, acknowledged: tell }
    }

    fn heard(transport: &mut Stdio<Gate>, line: &str) {
        assert!(matches!(transport.understand(line), Ok(Some(_))), "{line}");
    }

    impl World {
        fn keep(&self) {
            let tell = self.acknowledged.clone();
            self.transport.receipts.keep(&RequestId::Number(7), Box::new(move || tell.send("acknowledged").unwrap()));
        }

        fn write(&mut self) -> impl Future<Output = io::Result<()>> + Send + 'static {
            let result = CallToolResult::success(vec![ContentBlock::text("hello")]);
            let result = ServerResult::CallToolResult(result);
            self.transport.send(ServerJsonRpcMessage::response(result, RequestId::Number(7)))
        }

        fn next(&self) -> &'static str {
            self.told.recv().unwrap()
        }

        /// Returns what has come that nobody has waited for.
        fn rest(&self) -> Vec<&'static str> {
            self.told.try_iter().collect()
        }
    }

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_reply_is_acknowledged_after_it_was_written_and_flushed() {
        let mut world = world();
        world.keep();
        let writing = world.write();
        let writer = std::thread::spawn(move || run(writing));
        assert_eq!((world.next(), world.rest().len()), ("writes", 0));
        world.allow.send(Ok(())).unwrap();
        assert_eq!((world.next(), world.rest().len()), ("flushes", 0));
        world.allow.send(Ok(())).unwrap();
        assert_eq!(world.next(), "acknowledged");
        writer.join().unwrap().unwrap();
        assert!(world.rest().is_empty() && world.transport.receipts.open().len() == 1);
    }

    #[test]
    fn a_reply_whose_writing_or_flushing_fails_is_not() {
        for good in [0, 1] {
            let mut world = world();
            world.keep();
            for _ in 0..good {
                world.allow.send(Ok(())).unwrap();
            }
            world.allow.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
            assert!(run(world.write()).is_err());
            assert_eq!(world.rest(), ["writes", "flushes"][..=good].to_vec());
            assert!(world.transport.receipts.open().get(&RequestId::Number(7)).is_none());
        }
    }

    #[test]
    fn a_call_that_is_given_up_has_no_receipt_whether_it_was_kept_before_or_after() {
        let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
        for first in [true, false] {
            let mut world = world();
            if first {
                world.keep();
            }
            heard(&mut world.transport, cancel);
            world.keep();
            world.allow.send(Ok(())).unwrap();
            world.allow.send(Ok(())).unwrap();
            run(world.write()).unwrap();
            assert_eq!(world.rest(), ["writes", "flushes"]);
        }
    }

    #[test]
    fn what_comes_before_the_session_does_not_end_it() {
        let (_, lines) = unbounded_channel();
        let mut transport = Stdio::new(lines, Vec::new(), Receipts::default());
        let refused = |answer: Result<Option<ClientJsonRpcMessage>, Refused>| {
            let refused = answer.unwrap_err();
            (refused.error.code.0, refused.id)
        };
        let discover = r#"{"jsonrpc":"2.0","id":0,"method":"server/discover","params":{}}"#;
        assert_eq!(refused(transport.understand(discover)), (-32601, Some(RequestId::Number(0))));
        assert_eq!(refused(transport.understand("{oops")), (-32700, None));
        assert!(matches!(transport.understand(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#), Ok(None)));
        assert!(matches!(transport.understand(r#"{"what":1}"#), Ok(None)));
    }
}
