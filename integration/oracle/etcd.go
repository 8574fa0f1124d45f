package oracle

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"
	_ "unsafe" // for go:linkname

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

// watchResyncPeriod is how long etcd waits before it reads the past for a watch: 100 ms, unless it is changed. etcd's own
// tests change it too.
//
//go:linkname watchResyncPeriod go.etcd.io/etcd/server/v3/storage/mvcc.watchResyncPeriod
var watchResyncPeriod time.Duration

func init() {
	watchResyncPeriod = 5 * time.Millisecond
	wal.SegmentSizeBytes = 4 << 20 // 64 MB are made ahead otherwise
}

const (
	// etcdTickMs and etcdElectionMs leave etcd's shortest lease at 2 s, as with its defaults: 3/2 of an election timeout in
	// whole ticks, rounded up to seconds. Ticks are few, because the first election waits for a random number of them.
	etcdTickMs     = 145
	etcdElectionMs = 5 * etcdTickMs
	etcdStartBound = 20 * time.Second
)

// etcd is one member in this process, on unix sockets.
type etcd struct {
	dir    string
	server *embed.Etcd
}

// startEtcd starts an empty etcd. It mostly waits for the first election: up to 0.7 s.
func startEtcd() (*etcd, error) {
	dir, err := os.MkdirTemp("/tmp", "ks-oracle-")
	if err != nil {
		return nil, err
	}
	e := &etcd{dir: dir}
	if err := e.start(); err != nil {
		return nil, fmt.Errorf("%w (%v)", err, e.close())
	}
	return e, nil
}

func (e *etcd) address() string { return "unix://" + e.dir + "/c.sock:0" }

func (e *etcd) start() error {
	c := embed.NewConfig()
	c.Dir = filepath.Join(e.dir, "data")
	c.ListenPeerUrls = []url.URL{{Scheme: "unix", Path: e.dir + "/p.sock:0"}}
	c.ListenClientUrls = []url.URL{{Scheme: "unix", Path: e.dir + "/c.sock:0"}}
	// Only names: nobody connects there.
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:1"}}
	c.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2"}}
	c.InitialCluster = c.Name + "=http://127.0.0.1:1"
	c.TickMs, c.ElectionMs = etcdTickMs, etcdElectionMs
	c.UnsafeNoFsync = true
	c.QuotaBackendBytes = 16 << 30
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	server, err := embed.StartEtcd(c)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	e.server = server
	ctx, cancel := context.WithTimeout(context.Background(), etcdStartBound)
	defer cancel()
	select {
	case <-server.Server.ReadyNotify():
		return nil
	case err := <-server.Err():
		return fmt.Errorf("start etcd: %w", err)
	case <-ctx.Done():
		return fmt.Errorf("start etcd: %w", ctx.Err())
	}
}

func (e *etcd) restart() error {
	e.server.Close()
	e.server = nil
	return e.start()
}

func (e *etcd) close() error {
	if e.server != nil {
		e.server.Close()
		e.server = nil
	}
	return os.RemoveAll(e.dir)
}
