package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// host is a running system. Its methods are for one goroutine at a time.
type host interface {
	// Endpoint is the host:port that load goes to: the primary's, the leader's.
	Endpoint(ctx context.Context) (string, error)
	// Other is the host:port of another server of the same data, until release is called. errNoOther: there is none.
	Other(ctx context.Context) (addr string, release func() error, err error)
	// Processes are all that now run.
	Processes() []process
	// Amiss says why results do not count. Empty: all is well.
	Amiss(ctx context.Context) string
	// Close ends all processes.
	Close() error
}

// errNoOther says that a system has only one server.
var errNoOther = errors.New("there is only one server")

const (
	// startWithin bounds the start of a system.
	startWithin = 90 * time.Second
	// askWithin bounds one question about a server's state.
	askWithin = 2 * time.Second
)

// The systems' names in the results.
const (
	kineshim = "kineshim"
	etcd1    = "etcd-1"
	etcd3    = "etcd-3"
	kineSync = "kine-sync"
)

var systemNames = []string{kineshim, etcd1, etcd3, kineSync}

// startHost starts a system in a directory of its own, which exists, and waits until it serves.
func startHost(ctx context.Context, name, dir string, b binaries, engine string) (host, error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	var h host
	var err error
	switch name {
	case kineshim:
		h, err = startShim(ctx, dir, b, engine)
	case etcd1:
		h, err = startEtcd(ctx, dir, b, 1)
	case etcd3:
		h, err = startEtcd(ctx, dir, b, 3)
	default:
		h, err = startKine(ctx, dir, b)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return h, nil
}

// status asks a server for the etcd API's status.
func status(ctx context.Context, addr string) (*etcdserverpb.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	c, err := dial(addr)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return etcdserverpb.NewMaintenanceClient(c.conn).Status(ctx, &etcdserverpb.StatusRequest{})
}

// await asks again until amiss has nothing to say, ctx ends, or a child has ended.
func await(ctx context.Context, children []*child, amiss func() error) error {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		err := amiss()
		if err == nil {
			return nil
		}
		for _, c := range children {
			if gone := c.gone(); gone != nil {
				return gone
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", ctx.Err(), err)
		case <-t.C:
		}
	}
}

// stopAll stops children, the last first.
func stopAll(children []*child) error {
	var errs []error
	for i := len(children) - 1; i >= 0; i-- {
		errs = append(errs, children[i].stop())
	}
	return errors.Join(errs...)
}
