package integration

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kineshim/integration/cluster"
)

// systemd hears what a node says of itself, as systemd does.
type systemd struct {
	t    *testing.T
	said chan string
}

// saidBound is more than a node says in a test; what does not fit is lost, as with systemd.
const saidBound = 10000

func newSystemd(t *testing.T) (s systemd, env []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	s = systemd{t, make(chan string, saidBound)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			select {
			case s.said <- string(b[:n]):
			default:
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return s, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=2000000"}
}

// hears waits until something is said that contains the text.
func (s systemd) hears(text string) {
	s.t.Helper()
	var all []string
	within := time.After(armWithin)
	for {
		select {
		case said := <-s.said:
			if all = append(all, said); strings.Contains(said, text) {
				return
			}
		case <-within:
			s.t.Fatalf("%q was not said; said was %q", text, all)
		}
	}
}

func TestSystemdIsToldHowTheNodesAre(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of real processes")
	}
	node, nodeEnv := newSystemd(t)
	witness, witnessEnv := newSystemd(t)
	r := newRig(t, func(o *cluster.Options) {
		o.Env = map[string][]string{"a": nodeEnv, cluster.Witness: witnessEnv}
	})
	defer r.destroy()
	ctx, cancel := context.WithTimeout(t.Context(), armWithin)
	defer cancel()
	must(t, r.StartAll(ctx))
	witness.hears("READY=1")
	witness.hears("votes in 1 cluster")
	witness.hears("WATCHDOG=1")
	node.hears("READY=1")
	node.hears("STATUS=NOBODY SERVES")
	must(t, r.WaitArmed(ctx))
	node.hears("serves. Automatic failover is armed")
	for range 3 {
		node.hears("WATCHDOG=1")
	}
	must(t, r.Stop(ctx, "a"))
	node.hears("WATCHDOG_USEC=") // nothing turns while it stops
	node.hears("STOPPING=1\nEXTEND_TIMEOUT_USEC=")
	must(t, r.Stop(ctx, cluster.Witness))
	witness.hears("STOPPING=1")
}
