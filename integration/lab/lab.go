// Package lab makes the failures of the failure matrix happen to a cluster of real processes on three hosts, each a network namespace with
// a disk of its own, and checks that what follows is right: row by row, under load, with a timeline that a person can read.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"kineshim/integration/cluster"
	"kineshim/integration/lab/site"
	"kineshim/integration/ledger"
)

// Client is the host on which nothing runs but clients.
const Client = "c"

// foreign is a host that has nothing to do with the cluster.
const foreign = "f"

// Bounds of waiting. A row that hits one has failed; none says how fast the cluster should be.
const (
	armWithin   = 2 * time.Minute // includes founding, or a clone
	serveWithin = 30 * time.Second
	checkWithin = time.Minute
)

// The sizes of the hosts' disks. They are sparse files: what is not written takes no room. PostgreSQL's WAL alone may grow to 1 GB.
const (
	dataDisk    = 3 << 30
	witnessDisk = 64 << 20
)

// Options say how rows are run.
type Options struct {
	Binaries cluster.Binaries
	// Out takes timelines and results.
	Out io.Writer
	// KeepDir takes the timeline of each row, and the logs of those that failed. It is made if it is missing.
	KeepDir string
}

// Lab runs rows one after another, on one cluster as long as it stays whole.
type Lab struct {
	opts Options
	rig  *rig
	rows int
}

// New makes a lab. It starts nothing: that is done by the first row.
func New(o Options) (*Lab, error) {
	if err := site.Supported(); err != nil {
		return nil, err
	}
	if _, err := site.Sweep(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.KeepDir, 0o755); err != nil {
		return nil, err
	}
	return &Lab{opts: o}, nil
}

// Close ends all that runs and removes all that was made.
func (l *Lab) Close() error {
	if l.rig == nil {
		return nil
	}
	r := l.rig
	l.rig = nil
	return r.close()
}

// changeOptions changes how a cluster is made, in a directory of the site's that all may enter.
type changeOptions func(ctx context.Context, dir string, o *cluster.Options) error

// rig is a cluster on hosts of its own, with clients.
type rig struct {
	*cluster.Cluster
	site    *site.Site
	clients map[string]*clientv3.Client
	log     *eventLog
	logDir  string
	// special: it was made for one row, with options of its own.
	special bool
	// binaries has what the operator runs.
	binaries cluster.Binaries
}

// newRig makes the hosts, founds the cluster, and starts it.
func (l *Lab) newRig(ctx context.Context, change changeOptions) (*rig, error) {
	s, err := site.New(cluster.A, cluster.B, cluster.Witness, Client, foreign)
	if err != nil {
		return nil, err
	}
	r := &rig{site: s, clients: map[string]*clientv3.Client{}, log: &eventLog{}, logDir: filepath.Join(s.Dir(), "logs"), special: change != nil, binaries: l.opts.Binaries}
	if err := errors.Join(r.build(ctx, l.opts, change)); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *rig) build(ctx context.Context, o Options, change changeOptions) error {
	if err := os.Mkdir(r.logDir, 0o755); err != nil {
		return err
	}
	for _, node := range cluster.Nodes {
		size := int64(dataDisk)
		if node == cluster.Witness {
			size = witnessDisk
		}
		if _, err := r.site.AddDisk(node, size); err != nil {
			return err
		}
	}
	co := cluster.Options{Binaries: o.Binaries, JSONLogs: true, Log: slog.New(slog.NewTextHandler(r.log, nil)), Place: r.site, LogDir: r.logDir}
	if change != nil {
		if err := change(ctx, r.site.Dir(), &co); err != nil {
			return err
		}
	}
	if co.Extra == nil {
		co.Extra = map[string]string{}
	}
	for _, node := range cluster.DataNodes {
		co.Extra[node] += vipConfig()
	}
	var err error
	if r.Cluster, err = cluster.New(ctx, r.site.Dir(), co); err != nil {
		return err
	}
	for _, node := range cluster.DataNodes {
		if r.clients[node], err = ledger.DialAll([]string{r.ClientURL(node)}, r.from(node)); err != nil {
			return err
		}
	}
	if r.clients[VIP], err = ledger.DialAll([]string{"http://" + vipTarget()}, r.from(Client)); err != nil {
		return err
	}
	return r.StartAll(ctx)
}

// from makes connections from a host.
func (r *rig) from(host string) grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return r.site.Dial(ctx, host, address) })
}

// endpoints are the names under which the store is reached, in a stable order.
func (r *rig) endpoints() []string { return slices.Sorted(maps.Keys(r.clients)) }

// endpoint is the store as k3s on the node's host reaches it, or a client of the virtual address.
func (r *rig) endpoint(node string) ledger.Endpoint {
	return ledger.Endpoint{Name: node, Store: ledger.Etcd{Client: r.clients[node]}}
}

func (r *rig) close() error {
	var errs []error
	for _, c := range r.clients {
		errs = append(errs, c.Close())
	}
	if r.Cluster != nil {
		errs = append(errs, r.Abandon())
	}
	return errors.Join(append(errs, r.site.Close())...)
}

// keep copies the logs and records of a failed row to a directory that stays.
func (r *rig) keep(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	found, _ := filepath.Glob(filepath.Join(r.logDir, "*"))
	for _, node := range cluster.DataNodes {
		postgres, _ := filepath.Glob(filepath.Join(r.DataDir(node), "postgres.log*"))
		found = append(found, postgres...)
	}
	var errs []error
	for _, f := range found {
		name := filepath.Base(f)
		if filepath.Dir(f) != r.logDir {
			name = filepath.Base(filepath.Dir(f)) + "-" + name
		}
		errs = append(errs, copyFile(filepath.Join(dir, name), f))
	}
	return errors.Join(errs...)
}

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// armed is the rig, armed. A row with options of its own gets a new one.
func (l *Lab) armed(ctx context.Context, row *Row) (*rig, error) {
	if l.rig != nil && (l.rig.special || row.Options != nil) {
		if err := l.Close(); err != nil {
			return nil, err
		}
	}
	if l.rig == nil {
		var err error
		if l.rig, err = l.newRig(ctx, row.Options); err != nil {
			return nil, fmt.Errorf("make a cluster: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, armWithin)
	defer cancel()
	return l.rig, l.rig.WaitArmed(ctx)
}
