package site

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// prefix begins the names of all that a lab makes on the machine: namespaces, and directories in /tmp.
const prefix = "kslab"

// owner is the process that made a site, told from a later one with the same PID by when it was started.
type owner struct {
	pid int
	// started is in clock ticks since boot.
	started uint64
}

// self is this process.
func self() (owner, error) {
	pid := os.Getpid()
	started, err := startOf(pid)
	return owner{pid, started}, err
}

// startOf is when the process was started; an error if there is none.
func startOf(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// After the command's name, which may contain anything, come the fields from the third on; the start is the 22nd.
	const after = 22 - 3
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) <= after {
		return 0, fmt.Errorf("stat of process %d: %d fields", pid, len(f))
	}
	return strconv.ParseUint(f[after], 10, 64)
}

// alive says whether the owner still runs.
func (o owner) alive() bool {
	started, err := startOf(o.pid)
	return err == nil && started == o.started
}

func (o owner) String() string { return fmt.Sprintf("%s-%d-%d", prefix, o.pid, o.started) }

// ownerOf reads the owner from a name that begins with one, and what follows it after a dash; false for names of others.
func ownerOf(name string) (o owner, rest string, ok bool) {
	parts := strings.SplitN(name, "-", 4)
	if len(parts) != 4 || parts[0] != prefix {
		return o, "", false
	}
	var err1, err2 error
	o.pid, err1 = strconv.Atoi(parts[1])
	o.started, err2 = strconv.ParseUint(parts[2], 10, 64)
	return o, parts[3], err1 == nil && err2 == nil && o.pid > 0
}
