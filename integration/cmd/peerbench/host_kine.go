package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"kineshim/integration/pgtest"
)

// kineDatabase is the name that k3s gives it.
const kineDatabase = "kubernetes"

// kineHost is plain kine on a PostgreSQL with a synchronous standby.
type kineHost struct {
	dir    string
	binary string
	pair   *pgtest.Pair
	server *child
	addr   string
	other  *child // while a line needs it: kine polls for all that is written, and would take its share of every other line
	end    chan struct{}
	ended  chan error
}

func startKine(ctx context.Context, dir string, b binaries) (host, error) {
	h := &kineHost{dir: dir, binary: b.kineserver, end: make(chan struct{}), ended: make(chan error, 1)}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // PostgreSQL dies with the thread that started it
		pair, err := pgtest.StartPair(dir, "jit=off", "log_checkpoints=on")
		if err == nil {
			h.pair = pair
			err = pair.Primary.CreateDatabase(kineDatabase)
		}
		started <- err
		<-h.end
		if h.pair == nil {
			h.ended <- nil
			return
		}
		h.ended <- h.pair.Remove()
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(err, h.Close())
	}
	var err error
	if h.server, h.addr, err = h.serve(ctx, "kine"); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// serve starts a kine process and waits until it answers.
func (h *kineHost) serve(ctx context.Context, name string) (*child, string, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, "", err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", ports[0])
	c, err := startChild(name, filepath.Join(h.dir, name+".log"), h.binary, "--listen", addr, "--dsn", h.pair.Primary.DSN(kineDatabase))
	if err != nil {
		return nil, "", err
	}
	err = await(ctx, []*child{c}, func() error {
		_, err := status(ctx, addr)
		return err
	})
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("%s: %w", name, err), c.stop())
	}
	return c, addr, nil
}

func (h *kineHost) Endpoint(context.Context) (string, error) { return h.addr, nil }

func (h *kineHost) Other(ctx context.Context) (string, func() error, error) {
	c, addr, err := h.serve(ctx, "other-kine")
	if err != nil {
		return "", nil, err
	}
	h.other = c
	return addr, func() error {
		h.other = nil
		return c.stop()
	}, nil
}

func (h *kineHost) Processes() []process {
	var out []process
	for _, c := range []*child{h.server, h.other} {
		if c != nil {
			out = append(out, process{name: c.name, pid: c.pid})
		}
	}
	for _, s := range []struct {
		name   string
		server *pgtest.Server
	}{{"postgres primary", h.pair.Primary}, {"postgres standby", h.pair.Standby}} {
		for _, pid := range s.server.Processes() {
			out = append(out, process{name: s.name, pid: pid, postgres: true})
		}
	}
	return out
}

func (h *kineHost) Amiss(context.Context) string {
	if err := h.server.gone(); err != nil {
		return err.Error()
	}
	return ""
}

func (h *kineHost) Close() error {
	var errs []error
	for _, c := range []*child{h.other, h.server} {
		if c != nil {
			errs = append(errs, c.stop())
		}
	}
	close(h.end)
	return errors.Join(append(errs, <-h.ended)...)
}
