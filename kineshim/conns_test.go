package kineshim

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A node that comes back is reached soon, however long it was away: requests wait for it. The bound has room for a busy machine.
func TestANodeThatComesBackIsReachedSoon(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var c conns
	t.Cleanup(func() { c.close() })
	const away = time.Second // the pauses between attempts have grown to their longest
	for end := time.Now().Add(away); time.Now().Before(end); time.Sleep(lookEvery) {
		if c.reachable(target) {
			t.Fatal("nobody listens, and it is reachable")
		}
	}
	if l, err = net.Listen("tcp", target); err != nil {
		t.Skipf("somebody else has taken the port: %v", err)
	}
	defer l.Close()
	began := time.Now()
	if err := l.(*net.TCPListener).SetDeadline(began.Add(10 * maxRedial)); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatalf("not tried again within %s: %v", time.Since(began), err)
	}
	conn.Close()
}

// gRPC's ResetConnectBackoff walks over a map that an attempt to connect may write to at the same time (v1.85.0), upon which Go ends the process: the nemesis has seen
// the race detector find it in a failover.
func TestNobodyResetsConnectBackoff(t *testing.T) {
	files := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		files++
		if strings.Contains(string(b), ".ResetConnectBackoff(") {
			t.Errorf("%s calls ResetConnectBackoff", path)
		}
		return err
	})
	if err != nil || files < 100 {
		t.Errorf("%d files: %v", files, err)
	}
}
