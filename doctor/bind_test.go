package doctor

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

// fakePorts has an error for some addresses.
type fakePorts map[string]error

func (p fakePorts) TryListen(address string, anywhere bool) error {
	if anywhere != strings.HasPrefix(address, "192.168.1.50:") {
		return errors.New("a virtual address need not be here, and others must be")
	}
	return p[address]
}
func (fakePorts) Holder(address string) string {
	return map[string]string{"127.0.0.1:2379": "etcd[42]", "192.168.1.10:5433": "postgres[43]"}[address]
}

func TestThePortsMustBeFreeWhileKineshimDoesNotRun(t *testing.T) {
	taken := &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	for name, tc := range map[string]struct {
		ports   fakePorts
		running bool
		want    []string
	}{
		"free":              {want: []string{"ok 9 of the 9 ports"}},
		"kineshim's own":    {ports: fakePorts{"127.0.0.1:2379": taken}, running: true, want: []string{"ok kineshim runs: its 9 ports are its own"}},
		"an etcd":           {ports: fakePorts{"127.0.0.1:2379": taken}, want: []string{"FAIL client_listen: etcd[42] listens at 127.0.0.1:2379 already // systemctl disable --now etcd", "ok 8 of the 9"}},
		"a PostgreSQL":      {ports: fakePorts{"192.168.1.10:5433": taken}, want: []string{"FAIL members.a.postgres: postgres[43] listens // set members.a.postgres to another port", "ok 8 of the 9"}},
		"another program":   {ports: fakePorts{"192.168.1.10:2383": taken}, want: []string{"FAIL members.a.peer: another program listens // ss -ltnp 'sport = :2383'", "ok 8 of the 9"}},
		"on a virtual one":  {ports: fakePorts{"192.168.1.50:2379": taken}, want: []string{"FAIL vip_etcd.port: another program // vip_etcd.port", "ok 8 of the 9"}},
		"a foreign address": {ports: fakePorts{"192.168.1.10:2384": os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)}, want: []string{"FAIL members.a.raft: this machine has no address 192.168.1.10:2384 // ip -brief address", "ok 8 of the 9"}},
		"not root":          {ports: fakePorts{":7443": os.NewSyscallError("bind", syscall.EACCES)}, want: []string{"warn apiserver.listen: not tried // sudo shimctl doctor", "ok 8 of the 9"}},
		"something else":    {ports: fakePorts{"127.0.0.1:8008": errors.New("no buffers")}, want: []string{"FAIL http_listen: 127.0.0.1:8008: no buffers // dmesg", "ok 8 of the 9"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, "control_listen: 0.0.0.0:2382", "http_listen: 127.0.0.1:8008", `apiserver: {listen: ":7443"}`, "vips: [{address: 192.168.1.50}]", "vip_etcd: {port: 2379, accept_plain_text: true}",
				"applications: {listen: ['127.0.0.1:5432'], accept_plain_text: true, databases: [{name: shop, password_file: /x}]}")
			n.running = tc.running
			expect(t, n.checkBinds(tc.ports), tc.want...)
		})
	}
}

func TestAPortThatIsTakenHasAHolder(t *testing.T) {
	ln := listen(t)
	at := ln.Addr().String()
	if err := (localPorts{}).TryListen(at, false); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("taken: %v", err)
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := (localPorts{}).Holder(at), fmt.Sprintf("%s[%d]", strings.TrimSpace(string(comm)), os.Getpid()); got != want {
		t.Errorf("the holder is %q, want %q", got, want)
	}
	ln.Close()
	if err := (localPorts{}).TryListen(at, false); err != nil {
		t.Errorf("free: %v", err)
	}
	if got := (localPorts{}).Holder(at); got != "" {
		t.Errorf("%q holds what nobody does", got)
	}
	if err := (localPorts{}).TryListen("192.0.2.254:1", false); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("another machine's: %v", err)
	}
	if err := (localPorts{}).TryListen("192.0.2.254:45999", true); err != nil {
		t.Errorf("another machine's, that may come: %v", err)
	}
}

func TestOnlyListenersCountAsHolders(t *testing.T) {
	const table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 0100007F:094B 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 11 1\n" +
		"   1: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22 1\n"
	if got := listenerOf(bufio.NewScanner(strings.NewReader(table)), 2379); got != "22" {
		t.Errorf("inode %q, want that of the listener", got)
	}
	if got := listenerOf(bufio.NewScanner(strings.NewReader(table)), 2380); got != "" {
		t.Errorf("inode %q of a port that nobody has", got)
	}
}
