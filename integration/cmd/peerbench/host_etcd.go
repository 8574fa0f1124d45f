package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// quotaBytes is etcd's bound of its database: its own default, 2 GB, is too little for a million keys, and 8 GiB is what it says is sensible.
const quotaBytes = 8 << 30

// etcdHost is an etcd cluster on this machine.
type etcdHost struct {
	children []*child
	clients  []string // host:port of each member
}

func startEtcd(ctx context.Context, dir string, b binaries, members int) (host, error) {
	ports, err := freePorts(2 * members)
	if err != nil {
		return nil, err
	}
	var initial []string
	for i := range members {
		initial = append(initial, fmt.Sprintf("m%d=http://127.0.0.1:%d", i, ports[members+i]))
	}
	h := &etcdHost{}
	for i := range members {
		name := fmt.Sprintf("m%d", i)
		client, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[i]), fmt.Sprintf("http://127.0.0.1:%d", ports[members+i])
		c, err := startChild("etcd "+name, filepath.Join(dir, name+".log"), b.etcd, "--name", name, "--data-dir", filepath.Join(dir, name),
			"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new", "--log-level", "warn",
			"--quota-backend-bytes", fmt.Sprint(int64(quotaBytes)))
		if err != nil {
			return nil, errors.Join(err, h.Close())
		}
		h.children = append(h.children, c)
		h.clients = append(h.clients, fmt.Sprintf("127.0.0.1:%d", ports[i]))
	}
	err = await(ctx, h.children, func() error {
		for _, addr := range h.clients { // all members, or the cluster is not whole
			s, err := status(ctx, addr)
			if err != nil {
				return err
			}
			if s.Leader == 0 || len(s.Errors) > 0 {
				return fmt.Errorf("%s: leader %x, %v", addr, s.Leader, s.Errors)
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// member finds one that leads, or one that does not.
func (h *etcdHost) member(ctx context.Context, leads bool) (string, error) {
	for _, addr := range h.clients {
		if s, err := status(ctx, addr); err == nil && s.Leader != 0 && (s.Leader == s.Header.MemberId) == leads {
			return addr, nil
		}
	}
	return "", fmt.Errorf("no member with leadership %t", leads)
}

func (h *etcdHost) Endpoint(ctx context.Context) (string, error) { return h.member(ctx, true) }

func (h *etcdHost) Other(ctx context.Context) (string, func() error, error) {
	if len(h.clients) == 1 {
		return "", nil, errNoOther
	}
	addr, err := h.member(ctx, false)
	return addr, func() error { return nil }, err
}

func (h *etcdHost) Processes() []process {
	var out []process
	for _, c := range h.children {
		out = append(out, process{name: c.name, pid: c.pid})
	}
	return out
}

func (h *etcdHost) Amiss(ctx context.Context) string {
	for _, c := range h.children {
		if err := c.gone(); err != nil {
			return err.Error()
		}
	}
	for _, addr := range h.clients {
		s, err := status(ctx, addr)
		if err != nil {
			return err.Error()
		}
		if s.Leader == 0 || len(s.Errors) > 0 {
			return fmt.Sprintf("%s: leader %x, %v", addr, s.Leader, s.Errors)
		}
	}
	return ""
}

func (h *etcdHost) Close() error { return stopAll(h.children) }
