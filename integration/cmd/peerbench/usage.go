package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// process is one of a system's.
type process struct {
	name     string // of the server; PostgreSQL's backends share one
	pid      int
	postgres bool
}

// memory is what a system's processes take, in bytes.
type memory struct {
	total, servers, postgres int64
	processes                map[string]int64
}

// memoryOf adds up resident memory. PostgreSQL's processes share most of theirs, so each counts its proportional part of what is shared
// (Pss); for the others it is Rss.
func memoryOf(list []process) memory {
	m := memory{processes: map[string]int64{}}
	for _, p := range list {
		var n int64
		if p.postgres {
			n = proportional(p.pid)
			m.postgres += n
		} else {
			n = resident(p.pid)
			m.servers += n
		}
		m.total += n
		m.processes[p.name] += n
	}
	return m
}

// resident is a process's Rss in bytes, 0 if it is gone.
func resident(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// proportional is a process's Pss in bytes, 0 if it is gone.
func proportional(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kB, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kB << 10
		}
	}
	return 0
}

// tick is the kernel's unit of CPU time in /proc: USER_HZ is 100 on every architecture Go runs Linux on.
const tick = 10 * time.Millisecond

// cpuOf is the CPU time that the processes have used since they began.
func cpuOf(list []process) time.Duration {
	var sum time.Duration
	for _, p := range list {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
		if err != nil {
			continue
		}
		// After the command's name come the state and so on; utime and stime are the 12th and 13th of these (proc(5)).
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) < 13 {
			continue
		}
		for _, f := range fields[11:13] {
			n, _ := strconv.ParseInt(f, 10, 64)
			sum += time.Duration(n) * tick
		}
	}
	return sum
}
