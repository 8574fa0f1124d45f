package doctor

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// listenState is TCP_LISTEN in /proc/net/tcp.
const listenState = "0A"

// Holder looks for the port's listener in /proc/net/tcp, and for the process that has it open, which takes root.
func (localPorts) Holder(address string) string {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return ""
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		inode := listenerOf(bufio.NewScanner(f), uint16(port))
		f.Close()
		if inode == "" {
			continue
		}
		if who := processWith("/proc", "socket:["+inode+"]"); who != "" {
			return who
		}
	}
	return ""
}

// listenerOf finds the inode of the port's listener in a table of the kernel's (proc_net_tcp.txt); "" if there is none.
func listenerOf(lines *bufio.Scanner, port uint16) string {
	suffix := fmt.Sprintf(":%04X", port)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) > 9 && f[3] == listenState && strings.HasSuffix(f[1], suffix) {
			return f[9]
		}
	}
	return ""
}

// processWith finds the process that has a file open, as "etcd[123]".
func processWith(proc, target string) string {
	links, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*")) // the pattern is good
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != target {
			continue
		}
		dir := filepath.Dir(filepath.Dir(link))
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue
		}
		return fmt.Sprintf("%s[%s]", strings.TrimSpace(string(name)), filepath.Base(dir))
	}
	return ""
}
