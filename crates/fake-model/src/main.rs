//! Starts the fake model server from a command line; all behaviour is in the library.
//!
//! The process prints `listening 127.0.0.1:PORT` and serves until it is killed or, with
//! `--until-eof`, until its standard input ends. A test keeps the other end of that pipe, so the
//! server cannot outlive it, however the test dies.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fake_model::log::Log;
use fake_model::server::Server;

const USAGE: &str = "usage: fake-model [--port N] [--log FILE] [--port-file FILE] [--until-eof] [--forget-done]";

/// What the command line asks for.
#[derive(Default)]
struct Options {
    port: u16,
    log: Option<PathBuf>,
    port_file: Option<PathBuf>,
    until_eof: bool,
    forget_done: bool,
}

fn main() -> ExitCode {
    let outcome = parse(std::env::args().skip(1)).and_then(|options| run(&options));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Nobody is left to be told when standard error is closed.
            let _ = writeln!(io::stderr(), "fake-model: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        let mut value = || {
            let missing = format!("{argument} needs a value; {USAGE}");
            arguments.next().ok_or(missing)
        };
        match argument.as_str() {
            "--port" => {
                let text = value()?;
                options.port = text.parse().map_err(|_| format!("'{text}' is not a port; {USAGE}"))?;
            }
            "--log" => options.log = Some(value()?.into()),
            "--port-file" => options.port_file = Some(value()?.into()),
            "--until-eof" => options.until_eof = true,
            "--forget-done" => options.forget_done = true,
            other => return Err(format!("unknown argument '{other}'; {USAGE}")),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<(), String> {
    let log = match &options.log {
        None => Log::nowhere(),
        Some(path) => Log::append_to(path).map_err(|error| format!("{}: {error}", path.display()))?,
    };
    let server = Server::start(options.port, log).map_err(|error| format!("127.0.0.1:{}: {error}", options.port))?;
    if options.forget_done {
        server.forget_done();
    }
    if let Some(path) = &options.port_file {
        write_port(path, server.port()).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    writeln!(io::stdout(), "listening 127.0.0.1:{}", server.port()).map_err(|error| format!("stdout: {error}"))?;
    if options.until_eof {
        wait_for_eof(&mut io::stdin().lock());
    } else {
        server.wait();
    }
    Ok(())
}

/// Writes the port by a rename, so that whoever polls for the file never reads half of it.
fn write_port(path: &Path, port: u16) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    fs::write(&partial, format!("{port}\n"))?;
    fs::rename(&partial, path)
}

/// Returns when `input` has ended or cannot be read any more.
fn wait_for_eof(input: &mut impl Read) {
    let mut buffer = [0; 512];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
