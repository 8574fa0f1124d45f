package balancer

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// server is one API server, and the connections to it.
type server struct {
	addr   string
	client *http.Client
	log    *slog.Logger

	mu     sync.Mutex // guards the fields below
	health health
	here   bool
	open   map[net.Conn]net.Conn // the server's end, by the client's
	closed bool                  // no connection is added any more
}

// health is what checks in a row have come to.
type health struct {
	bad bool
	// streak is how many checks have come out against bad, or for it, in a row.
	streak int
	badAt  time.Time
	why    string
}

// note takes a check in, and says whether the server has changed sides.
func (h *health) note(now time.Time, err error) bool {
	if (err != nil) == h.bad {
		h.streak = 0
		if err != nil {
			h.why = err.Error()
		}
		return false
	}
	h.streak++
	if bound := map[bool]int{false: fall, true: rise}[h.bad]; h.streak < bound {
		return false
	}
	h.bad, h.streak, h.badAt, h.why = !h.bad, 0, now, ""
	if err != nil {
		h.why = err.Error()
	}
	return true
}

func newServer(addr string, conf *tls.Config, log *slog.Logger) *server {
	if conf == nil {
		conf = &tls.Config{InsecureSkipVerify: true}
	}
	return &server{
		addr: addr, log: log.With("server", addr), open: map[net.Conn]net.Conn{},
		client: &http.Client{
			Timeout: checkTimeout,
			// A new connection for each check: what is to be found out is whether one can be made. No proxy from the environment.
			Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true, TLSHandshakeTimeout: checkTimeout},
		},
	}
}

// watch checks the server until ctx ends.
func (s *server) watch(ctx context.Context, otherGood func(*server) bool) {
	t := time.NewTicker(checkEvery)
	defer t.Stop()
	for {
		s.look(ctx)
		s.drain(time.Now(), otherGood)
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *server) look(ctx context.Context) {
	err := s.check(ctx)
	if ctx.Err() != nil {
		return
	}
	here := isLocal(s.addr)
	s.mu.Lock()
	s.here = here
	changed := s.health.note(time.Now(), err)
	bad := s.health.bad
	s.mu.Unlock()
	switch {
	case changed && bad:
		s.log.Warn("the API server is not ready", "error", err)
	case changed:
		s.log.Info("the API server is ready")
	}
}

// check asks whether the server is ready. One that wants to know who asks (401, 403) is up, and counts as ready: k3s refuses anonymous requests.
func (s *server) check(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.addr+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // what it says is for people
	switch resp.StatusCode {
	case http.StatusOK, http.StatusUnauthorized, http.StatusForbidden:
		return nil
	}
	return fmt.Errorf("/readyz answers %s", resp.Status)
}

// drain ends the connections to a server that has been bad for long enough, if they have somewhere to go.
func (s *server) drain(now time.Time, otherGood func(*server) bool) {
	s.mu.Lock()
	due := s.health.bad && now.Sub(s.health.badAt) >= drainFor && len(s.open) > 0
	n := len(s.open)
	s.mu.Unlock()
	if due && otherGood(s) {
		s.log.Info("connections to the API server that is not ready are ended", "connections", n)
		s.cutOpen()
	}
}

func (s *server) good() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.health.bad
}

func (s *server) local() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.here
}

// dial connects. A failure counts as a failed check, so that clients do not have to wait for it again and again.
func (s *server) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAliveConfig}
	conn, err := d.DialContext(ctx, "tcp", s.addr)
	if err != nil && ctx.Err() == nil {
		s.mu.Lock()
		changed := !s.health.bad && s.health.note(time.Now(), err)
		s.mu.Unlock()
		if changed {
			s.log.Warn("the API server cannot be reached", "error", err)
		}
	}
	return conn, err
}

// keepAliveConfig is for both ends.
var keepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive, Count: 3}

// add makes the connection known; false if the server takes none any more.
func (s *server) add(client, upstream net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.open[client] = upstream
	return true
}

func (s *server) remove(client net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, client)
}

// cut ends one connection; whoever pipes it removes it.
func (s *server) cut(client net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if up := s.open[client]; up != nil {
		up.Close()
	}
	client.Close()
}

// cutOpen ends all connections.
func (s *server) cutOpen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, up := range s.open {
		c.Close()
		up.Close()
	}
}

// cutAll ends all connections, and those to come.
func (s *server) cutAll() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cutOpen()
}

// isLocal says whether an address is this machine's own. A name counts as another's: it would have to be looked up again and again.
func isLocal(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	a, perr := netip.ParseAddr(host)
	if err != nil || perr != nil {
		return host == "localhost"
	}
	if a.IsLoopback() {
		return true
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, i := range all {
		if p, err := netip.ParsePrefix(i.String()); err == nil && p.Addr().Unmap() == a.Unmap() {
			return true
		}
	}
	return false
}
