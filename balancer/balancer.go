// Package balancer passes TCP connections on to one of several Kubernetes API servers that are ready, this machine's own first.
package balancer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"kineshim/quiet"
	"kineshim/turnstile"
)

// Config is what a Balancer needs.
type Config struct {
	// Servers are the API servers, host:port. One whose address is this machine's own is preferred.
	Servers []string
	// TLS is for the health checks only: connections are passed on as they are. Nil: the server's certificate is not verified, so that
	// whoever answers at its address counts as it, as is so for the connections anyway.
	TLS *tls.Config
	// MaxConnections bounds the connections at once, of which one address gets three quarters; more are closed at once.
	MaxConnections int
	Log            *slog.Logger
}

const (
	// checkEvery and checkTimeout: a server that hangs is found within fall checks. /readyz asks etcd, which may take seconds in a failover.
	checkEvery, checkTimeout = time.Second, 3 * time.Second
	// fall and rise are how many checks in a row make a server bad, or good again: one slow answer moves nobody.
	fall, rise = 3, 2
	// drainFor is how long connections to a server that has become bad go on, if another one is good: its clients come back to that one.
	drainFor = 10 * time.Second
	// dialTimeout ends an attempt to connect to one server; the next one is tried then.
	dialTimeout = time.Second
	// halfClosedFor is how long a connection goes on when one side has said all: the other one may still answer.
	halfClosedFor = time.Minute
	// keepAlive finds a machine that died without a word, within three of them.
	keepAlive = 10 * time.Second
	// acceptAgain is the pause after a failure to accept: out of descriptors, as a rule.
	acceptAgain = 50 * time.Millisecond
)

// Balancer serves listeners. Make it with New, then call Run once.
type Balancer struct {
	cfg     Config
	log     *slog.Logger
	servers []*server
	room    *turnstile.Turnstile
	said    *quiet.Repeats

	mu   sync.Mutex // guards next
	next int        // which of equally good servers is tried first
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Balancer, error) {
	if len(cfg.Servers) == 0 || cfg.MaxConnections < 1 || cfg.Log == nil {
		return nil, errors.New("balancer: servers, a bound of connections and a log are required")
	}
	b := &Balancer{cfg: cfg, log: cfg.Log, room: turnstile.New(cfg.MaxConnections, cfg.MaxConnections-cfg.MaxConnections/4), said: quiet.New(quiet.Often)}
	for _, addr := range cfg.Servers {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("balancer: %w", err)
		}
		b.servers = append(b.servers, newServer(addr, cfg.TLS, cfg.Log))
	}
	return b, nil
}

// Run serves the listeners until ctx ends; then it closes them and all connections, and returns nil when all is over.
func (b *Balancer) Run(ctx context.Context, lns []net.Listener) error {
	var all sync.WaitGroup
	defer all.Wait()
	for _, s := range b.servers {
		all.Go(func() { s.watch(ctx, b.otherGood) })
	}
	for _, ln := range lns {
		all.Go(func() { b.accept(ctx, ln, &all) })
	}
	<-ctx.Done()
	for _, ln := range lns {
		ln.Close()
	}
	for _, s := range b.servers {
		s.cutAll()
	}
	return nil
}

// otherGood says whether a server other than the given one is good.
func (b *Balancer) otherGood(than *server) bool {
	for _, s := range b.servers {
		if s != than && s.good() {
			return true
		}
	}
	return false
}

func (b *Balancer) accept(ctx context.Context, ln net.Listener, all *sync.WaitGroup) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(acceptAgain):
			}
			b.complain("a connection could not be accepted", "error", err)
			continue
		}
		leave, err := b.room.Enter(conn.RemoteAddr())
		if err != nil {
			conn.Close()
			b.complain("connections to the API servers are refused: there are too many", "client", conn.RemoteAddr(), "why", err)
			continue
		}
		all.Go(func() {
			defer leave()
			b.serve(ctx, conn)
		})
	}
}

// complain logs a warning, now and then: clients can bring it about at will.
func (b *Balancer) complain(msg string, args ...any) {
	if line := b.said.Happened(time.Now(), msg, ""); line.Say {
		b.log.Warn(msg, append(args, "unsaid", line.Unsaid)...)
	}
}

// serve passes one connection on to its end. No byte of it has been sent to a server before it is connected, so each can be tried.
func (b *Balancer) serve(ctx context.Context, client net.Conn) {
	defer client.Close()
	for _, s := range b.order() {
		upstream, err := s.dial(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			b.log.Debug("an API server could not be reached", "server", s.addr, "error", err)
			continue
		}
		if !s.add(client, upstream) {
			upstream.Close()
			continue
		}
		if ctx.Err() != nil { // ended between the dial and the add: nobody else cuts it
			s.cut(client)
		}
		pipe(client, upstream)
		s.remove(client)
		upstream.Close()
		return
	}
	b.complain("no API server can be reached", "servers", b.cfg.Servers)
}

// order is the servers to try: the good ones first, among them this machine's own; the bad ones last, since a check may be wrong.
func (b *Balancer) order() []*server {
	b.mu.Lock()
	b.next++
	first := b.next
	b.mu.Unlock()
	var classes [4][]*server
	for i := range b.servers {
		s := b.servers[(first+i)%len(b.servers)]
		class := 0
		if !s.good() {
			class += 2
		}
		if !s.local() {
			class++
		}
		classes[class] = append(classes[class], s)
	}
	var out []*server
	for _, c := range classes {
		out = append(out, c...)
	}
	return out
}
