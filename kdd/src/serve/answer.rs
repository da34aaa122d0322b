//! What one client asked, answered. The folder's other files do it; this one says which.

use super::pause::Held;
use super::{Managed, Service};
use crate::Failure;
use crate::control::caller::Caller;
use crate::control::message::{PROTOCOL_VERSION, Reply, Request};
use std::sync::Arc;

/// One client's connection. Domains that it holds run again when it goes.
pub struct ControlSession {
    service: Arc<Service>,
    number: u64,
    held: Vec<Held>,
}

impl ControlSession {
    /// A client, with a number for the log.
    pub fn new(service: Arc<Service>, number: u64) -> ControlSession {
        ControlSession {
            service,
            number,
            held: Vec::new(),
        }
    }

    /// Does what is asked. May block.
    ///
    /// # Errors
    /// What the client is to tell its user.
    pub fn answer(&mut self, request: Request, caller: &Caller) -> Result<Reply, Failure> {
        tracing::info!(client = self.number, ?request, "asked");
        let answer = self.dispatch(request, caller);
        if let Err(failure) = &answer {
            tracing::info!(client = self.number, %failure, "refused");
        }
        answer
    }

    fn dispatch(&mut self, request: Request, caller: &Caller) -> Result<Reply, Failure> {
        let service = &self.service;
        let done = |()| Reply::Done;
        match request {
            Request::Version => Ok(Reply::Version {
                version: env!("CARGO_PKG_VERSION").into(),
                protocol: PROTOCOL_VERSION,
                pid: std::process::id(),
            }),
            Request::List => Ok(Reply::Domains {
                domains: service.domains().iter().map(|m| m.summary()).collect(),
            }),
            Request::Info { domain, hash } => {
                let managed = service.find(&domain)?;
                Ok(Reply::Domain(Box::new(managed.info(hash, &service.symbols)?)))
            }
            Request::Create(request) => {
                let managed = service.create(*request)?;
                Ok(Reply::Created(managed.summary()))
            }
            Request::Pause { domain } => service.find(&domain)?.pause().map(done),
            Request::Unpause { domain } => service.find(&domain)?.unpause().map(done),
            Request::Hold { domain } => self.hold(&domain).map(done),
            Request::Reset { domain } => service.find(&domain)?.reset().map(done),
            Request::Destroy { domain } => {
                let managed = service.find(&domain)?;
                self.held
                    .retain(|held| held.managed().domain().id() != managed.domain().id());
                service.destroy(&managed).map(done)
            }
            Request::Gdb {
                domain,
                listen,
                process,
            } => {
                let managed = service.find(&domain)?;
                service
                    .listen(&managed, &listen, process.as_deref())
                    .map(Reply::Listening)
            }
            Request::Kd { domain, listen } => {
                let managed = service.find(&domain)?;
                service.listen_kd(&managed, &listen).map(Reply::Listening)
            }
            Request::Save { domain, path } => {
                let bytes = service.save(&service.find(&domain)?, &path)?;
                Ok(Reply::Saved { path, bytes })
            }
            Request::Watch(request) => {
                let incidents = service.watch(&request, caller)?;
                Ok(Reply::Watched { incidents })
            }
            Request::Dump(request) => service.dump(&request, caller).map(Reply::Dumped),
            Request::Fork {
                domain,
                count,
                paused,
            } => {
                let children = service.fork(&service.find(&domain)?, count, paused)?;
                Ok(Reply::Forked {
                    domains: children.iter().map(|m| m.summary()).collect(),
                })
            }
            Request::Registers { domain, vcpu } => {
                let dump = service.find(&domain)?.register_dump(vcpu)?;
                Ok(Reply::Registers(Box::new(dump)))
            }
            Request::ReadMemory {
                domain,
                space,
                address,
                length,
            } => {
                let managed = service.find(&domain)?;
                let symbols = &service.symbols;
                let read = managed.read_memory(symbols, space, &address, length);
                read.map(Reply::Memory)
            }
            Request::WriteMemory {
                domain,
                space,
                address,
                bytes,
            } => {
                let managed = service.find(&domain)?;
                let (bytes, stopped) = managed.write_memory(&service.symbols, space, &address, &bytes.0)?;
                Ok(Reply::Written { bytes, stopped })
            }
            Request::Processes { domain } => {
                let managed = service.find(&domain)?;
                managed.guest_processes(&service.symbols).map(Reply::Processes)
            }
            Request::Modules { domain } => {
                let managed = service.find(&domain)?;
                managed.guest_modules(&service.symbols).map(Reply::Modules)
            }
            Request::Threads { domain, pid } => {
                let managed = service.find(&domain)?;
                managed.guest_threads(&service.symbols, pid).map(Reply::Threads)
            }
            Request::Log { domain, skip } => {
                let managed = service.find(&domain)?;
                managed.guest_log(&service.symbols, skip).map(Reply::Log)
            }
            Request::Symbols { domain, find, skip } => {
                let managed = service.find(&domain)?;
                let found = managed.guest_symbols(&service.symbols, find.as_deref(), skip);
                found.map(Reply::Symbols)
            }
            Request::SymbolFile { domain, path, force } => {
                let managed = service.find(&domain)?;
                let written = service.write_symbol_file(&managed, &path, force, caller);
                written.map(Reply::SymbolFile)
            }
            Request::Translate {
                domain,
                vcpu,
                address,
            } => {
                let managed = service.find(&domain)?;
                let symbols = &service.symbols;
                managed.translate(symbols, vcpu, &address).map(Reply::Translation)
            }
        }
    }

    fn hold(&mut self, domain: &str) -> Result<(), Failure> {
        let managed: Arc<Managed> = self.service.find(domain)?;
        let known = |held: &Held| held.managed().domain().id() == managed.domain().id();
        if !self.held.iter().any(known) {
            self.held.push(managed.hold()?);
        }
        Ok(())
    }
}
