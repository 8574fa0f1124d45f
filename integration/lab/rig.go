package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"kineshim/integration/cluster"
	"kineshim/integration/lab/site"
	"kineshim/integration/ledger"
)

// VIP is the name of the endpoint at a rig's first virtual address, as a client on the host Client reaches it.
const VIP = "vip"

// Rig is a running cluster on hosts of its own, for those who make failures of their own happen to it. Beside the cluster's methods it has the load and
// the checks of the rows. Its methods are for one goroutine at a time, but for those of the cluster, which say what holds for them.
type Rig struct{ *rig }

// NewRig makes the hosts, founds a cluster with a virtual address, and starts it. extra are lines added to the data nodes' configuration. Close
// removes it. Only the options' binaries are used.
func NewRig(ctx context.Context, o Options, extra string) (*Rig, error) {
	if err := site.Supported(); err != nil {
		return nil, err
	}
	if _, err := site.Sweep(); err != nil {
		return nil, err
	}
	l := Lab{opts: o}
	r, err := l.newRig(ctx, func(_ context.Context, _ string, co *cluster.Options) error {
		co.Extra = map[string]string{cluster.A: extra, cluster.B: extra}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Rig{r}, nil
}

// Target is the host:port of an endpoint, a data node's name or VIP, as seen from where its clients are.
func (r *Rig) Target(endpoint string) string {
	if endpoint == VIP {
		return vipTarget()
	}
	return fmt.Sprintf("127.0.0.1:%d", r.ClientPort(endpoint))
}

// Dialer makes connections from where the endpoint's clients are: a data node's own host, or for VIP the host Client.
func (r *Rig) Dialer(endpoint string) grpc.DialOption {
	host := endpoint
	if endpoint == VIP {
		host = Client
	}
	return r.from(host)
}

// Client asks the endpoint. It is the rig's, and closed with it.
func (r *Rig) Client(endpoint string) *clientv3.Client { return r.clients[endpoint] }

// Site is where the hosts are.
func (r *Rig) Site() *site.Site { return r.site }

// Close ends all that runs and removes all that was made.
func (r *Rig) Close() error { return r.close() }

// Keep copies the logs and the records of the load to a directory, which is made.
func (r *Rig) Keep(dir string) error { return r.keep(dir) }

// Logs are the files to which the nodes' processes append.
func (r *Rig) Logs() []string {
	var out []string
	for _, node := range cluster.Nodes {
		out = append(out, r.LogPath(node))
	}
	return out
}

// PowerOff takes a host's power away: its link goes, its processes are killed, and what was not flushed to its disk is lost.
func (r *Rig) PowerOff(hosts ...string) error { return r.powerOff(hosts...) }

// PowerOn gives a host that had none its disk and its link again. It starts nothing.
func (r *Rig) PowerOn(host string) error { return r.powerOn(host) }

// Story is what happens to a rig and what it does, line by line. It is safe for concurrent use.
type Story struct{ l *timeline }

// NewStory tells each line at once, with the seconds since now, and keeps none.
func NewStory(out io.Writer) *Story {
	l := newTimeline()
	l.live = out
	return &Story{l}
}

// Tell adds a line.
func (s *Story) Tell(format string, args ...any) { s.l.note(format, args...) }

// Follow tells what changes in what the data nodes say, and what is done to the cluster, until ctx ends. It returns when nothing is told any more.
func (s *Story) Follow(ctx context.Context, r *Rig) {
	r.log.set(s.l)
	defer r.log.set(nil)
	done := make(chan struct{})
	for _, node := range cluster.DataNodes {
		go func() {
			s.l.sample(ctx, r.Cluster, node)
			done <- struct{}{}
		}()
	}
	for range cluster.DataNodes {
		<-done
	}
}

// Ledger is the rows' load on a rig, with a watch on both gates and watches of all keys.
type Ledger struct {
	*load
	record string
}

// StartLedger begins a load through the data nodes and the virtual address. Its number is used once for each rig. End it with Halt and Check, or with Abandon.
func (r *Rig) StartLedger(ctx context.Context, number int) (*Ledger, error) {
	l, err := r.startLoad(ctx, number, VIP)
	if err != nil {
		return nil, err
	}
	return &Ledger{l, r.ledgerPath(number)}, nil
}

// Abandon ends the load without a check.
func (l *Ledger) Abandon() { l.abandon() }

// Halt ends the load's requests, and waits for those under way.
func (l *Ledger) Halt() error { return l.halt() }

// Gates ends the watch on the gates, and returns what it found wrong and who was seen as primary in each epoch.
func (l *Ledger) Gates() (found []string, epochs map[uint64]string) { return l.gates.Stop() }

// Check reads the final state and the history through each node, and returns what is wrong with the record. The load must have been halted.
func (l *Ledger) Check(ctx context.Context) []string { return l.check(ctx) }

// Prefix begins all keys of the load.
func (l *Ledger) Prefix() string { return l.prefix }

// Forget removes the record of a load that has been checked from the disk.
func (l *Ledger) Forget() error { return os.Remove(l.record) }

// Stats sums up the record so far.
func (l *Ledger) Stats() ledger.Stats { return ledger.Summarise(l.rec.Entries()) }

// Writes waits until a write through the endpoint, begun from now on, is acknowledged.
func (l *Ledger) Writes(ctx context.Context, endpoint string) error {
	for now := l.rec.Now(); ; {
		if _, ok := l.rec.FirstWriteAfter(now, endpoint); ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no write through %s is acknowledged: %w", endpoint, ctx.Err())
		case <-time.After(sampleEvery):
		}
	}
}

func (r *rig) ledgerPath(number int) string {
	return filepath.Join(r.logDir, fmt.Sprintf("ledger-%03d.jsonl", number))
}
