//! CPU time, in two ways that must agree on a machine that does nothing else.
//!
//! - Of the processes of a system under test, the load generator included, and of the kernel's `ksoftirqd` threads, by
//!   their CPU clocks: exact to the nanosecond, and packets that are handled in softirq are charged to whoever
//!   was running (without `CONFIG_IRQ_TIME_ACCOUNTING`), which on these wires is whoever sent them.
//! - Of the whole machine: what is not idle in `/proc/stat`. It includes whatever else runs, so the difference
//!   between the two says how quiet the machine was.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Clocks of processes; reading all of them costs some microseconds.
pub struct Meter {
    clocks: Vec<libc::clockid_t>,
}

/// A moment's readings, or the difference of two moments'.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Of the processes and ksoftirqd.
    pub lab: Duration,
    /// Of the whole machine, in steps of 10 ms.
    pub machine: Duration,
}

/// Where a measurement began.
pub struct Begun {
    lab: Duration,
    idle: Duration,
    at: Instant,
}

impl Meter {
    /// Of this process, of `processes` and of ksoftirqd.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn new(processes: &[u32]) -> Result<Self> {
        let mut clocks = vec![libc::CLOCK_PROCESS_CPUTIME_ID];
        for pid in processes.iter().copied().chain(ksoftirqd()?) {
            clocks.push(clock_of(pid)?);
        }
        Ok(Self { clocks })
    }

    /// # Errors
    /// A process is gone.
    pub fn begin(&self) -> Result<Begun> {
        Ok(Begun {
            lab: self.read()?,
            idle: idle()?,
            at: Instant::now(),
        })
    }

    /// CPU time since then.
    ///
    /// # Errors
    /// A process is gone.
    pub fn since(&self, begun: &Begun) -> Result<Used> {
        let wall = begun.at.elapsed() * cpus()?;
        Ok(Used {
            lab: self.read()?.saturating_sub(begun.lab),
            machine: wall.saturating_sub(idle()?.saturating_sub(begun.idle)),
        })
    }

    fn read(&self) -> Result<Duration> {
        self.clocks.iter().map(|clock| time_of(*clock)).sum()
    }
}

fn clock_of(pid: u32) -> Result<libc::clockid_t> {
    let mut clock = 0;
    // SAFETY: the pointer is to a variable that lives for the call.
    match unsafe { libc::clock_getcpuclockid(libc::pid_t::try_from(pid)?, &raw mut clock) } {
        0 => Ok(clock),
        _ => bail!("process {pid}, whose CPU time is measured, is gone"),
    }
}

fn time_of(clock: libc::clockid_t) -> Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a variable that lives for the call.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error()).context("read a process's CPU clock");
    }
    Ok(Duration::new(
        u64::try_from(time.tv_sec)?,
        u32::try_from(time.tv_nsec)?,
    ))
}

/// The kernel threads that handle packets when there are too many of them.
fn ksoftirqd() -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let Some(number) = number else { continue };
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("ksoftirqd/") {
            found.push(number);
        }
    }
    Ok(found)
}

/// How many CPUs there are, whatever this process may use of them.
fn cpus() -> Result<u32> {
    // SAFETY: sysconf takes a number and touches no memory.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u32::try_from(count).context("the number of CPUs")
}

/// Idle time of all CPUs. With `CONFIG_NO_HZ_IDLE` the kernel measures it and does not sample (`get_idle_time` in
/// fs/proc/stat.c).
fn idle() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let mut fields = line.split_whitespace().skip(4);
    let mut next = || fields.next().and_then(|field| field.parse::<u64>().ok());
    match (next(), next()) {
        // In hundredths of a second (proc_stat(5): USER_HZ): idle and iowait.
        (Some(idle), Some(waiting)) => Ok(Duration::from_millis(10 * (idle + waiting))),
        _ => bail!("/proc/stat begins with {line:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_seen() {
        let meter = Meter::new(&[]).unwrap();
        let begun = meter.begin().unwrap();
        let start = Instant::now();
        while time_of(libc::CLOCK_THREAD_CPUTIME_ID).unwrap() < Duration::from_millis(30) {
            assert!(start.elapsed() < Duration::from_secs(60));
        }
        let used = meter.since(&begun).unwrap();
        assert!(used.lab >= Duration::from_millis(30), "{used:?}");
    }

    #[test]
    fn a_dead_process_is_an_error() {
        // Beyond the kernel's highest, 2^22; a clock holds 29 bits.
        assert!(Meter::new(&[1 << 23]).is_err());
    }
}
