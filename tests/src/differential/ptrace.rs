//! The few system calls of tracing, made safe.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// A process that this thread traces; only this thread may use it.
pub struct Tracee {
    child: Child,
    /// Tracing belongs to a thread: neither Send nor Sync.
    _thread: std::marker::PhantomData<*const ()>,
}

/// What a wait saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// Stopped by this signal before its delivery.
    Stopped(i32),
    /// Gone.
    Gone,
}

fn check(result: i64) -> io::Result<i64> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

impl Tracee {
    /// Starts an ELF program that stops before its first instruction.
    pub fn start(program: &[u8]) -> io::Result<Tracee> {
        let file = memory_file(program)?;
        let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        command.env_clear();
        // SAFETY: between fork and exec only async-signal-safe system calls are made.
        unsafe {
            command.pre_exec(|| {
                // An endless loop ends some time: the kernel kills it.
                let limit = libc::rlimit {
                    rlim_cur: 600,
                    rlim_max: 600,
                };
                libc::setrlimit(libc::RLIMIT_CPU, &limit);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                check(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0)).map(|_| ())
            });
        }
        let child = command.spawn()?;
        let tracee = Tracee {
            child,
            _thread: std::marker::PhantomData,
        };
        match tracee.wait()? {
            Waited::Stopped(libc::SIGTRAP) => {}
            other => {
                return Err(io::Error::other(format!(
                    "the child did not stop at its start: {other:?}"
                )));
            }
        }
        // SAFETY: PTRACE_SETOPTIONS takes numbers only.
        check(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, tracee.pid(), 0, libc::PTRACE_O_EXITKILL) })?;
        Ok(tracee)
    }

    fn pid(&self) -> libc::pid_t {
        self.child.id() as libc::pid_t
    }

    /// Its memory as a file.
    pub fn memory(&self) -> io::Result<File> {
        File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{}/mem", self.pid()))
    }

    /// Waits until it stops.
    pub fn wait(&self) -> io::Result<Waited> {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        check(unsafe { libc::waitpid(self.pid(), &mut status, 0) } as i64)?;
        Ok(if libc::WIFSTOPPED(status) {
            Waited::Stopped(libc::WSTOPSIG(status))
        } else {
            Waited::Gone
        })
    }

    /// Lets it run, without the signal that stopped it.
    pub fn resume(&self) -> io::Result<()> {
        // SAFETY: PTRACE_CONT takes numbers only.
        check(unsafe { libc::ptrace(libc::PTRACE_CONT, self.pid(), 0, 0) }).map(|_| ())
    }

    /// The general registers.
    pub fn registers(&self) -> io::Result<libc::user_regs_struct> {
        // SAFETY: all zeros is a value of this struct of integers, which is as large as the kernel's.
        unsafe {
            let mut registers: libc::user_regs_struct = std::mem::zeroed();
            check(libc::ptrace(libc::PTRACE_GETREGS, self.pid(), 0, &mut registers))?;
            Ok(registers)
        }
    }

    /// Sets the general registers.
    pub fn set_registers(&self, registers: &libc::user_regs_struct) -> io::Result<()> {
        // SAFETY: the kernel reads a struct of this type.
        check(unsafe { libc::ptrace(libc::PTRACE_SETREGS, self.pid(), 0, registers) }).map(|_| ())
    }

    /// The x87 and SSE registers.
    pub fn fp_registers(&self) -> io::Result<libc::user_fpregs_struct> {
        // SAFETY: as for the general registers.
        unsafe {
            let mut registers: libc::user_fpregs_struct = std::mem::zeroed();
            check(libc::ptrace(
                libc::PTRACE_GETFPREGS,
                self.pid(),
                0,
                &mut registers,
            ))?;
            Ok(registers)
        }
    }

    /// Sets the x87 and SSE registers.
    pub fn set_fp_registers(&self, registers: &libc::user_fpregs_struct) -> io::Result<()> {
        // SAFETY: the kernel reads a struct of this type.
        check(unsafe { libc::ptrace(libc::PTRACE_SETFPREGS, self.pid(), 0, registers) }).map(|_| ())
    }

    /// The signal that stopped it: number, code and address.
    pub fn signal(&self) -> io::Result<(i32, i32, u64)> {
        // SAFETY: all zeros is a valid siginfo_t, and the address is a field of every signal that an exception makes.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            check(libc::ptrace(libc::PTRACE_GETSIGINFO, self.pid(), 0, &mut info))?;
            Ok((info.si_signo, info.si_code, info.si_addr() as u64))
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // It may be gone already; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file without a name that holds these bytes.
fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let name = CString::from(c"differential");
    // SAFETY: the name is a C string; the descriptor returned is ours alone.
    let file = unsafe {
        let fd = check(libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) as i64)?;
        File::from_raw_fd(fd as i32)
    };
    io::Write::write_all(&mut &file, bytes)?;
    Ok(file)
}
