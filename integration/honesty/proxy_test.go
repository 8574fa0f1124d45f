package honesty

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kineshim/integration/pgtest"
)

// proxy stands between an engine and its PostgreSQL, and loses what it is told to lose. It is safe for concurrent use.
type proxy struct {
	dir      string // holds the socket
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex // guards links
	links map[*link]struct{}
}

// link is one session.
type link struct {
	client, server net.Conn
	muted          atomic.Bool // the client hears nothing any more
}

// behindProxy starts a proxy for one test.
func behindProxy(t *testing.T, pg *pgtest.Server) *proxy {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ks-px-")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{dir: dir, target: filepath.Join(pg.Dir, ".s.PGSQL.5432"), links: map[*link]struct{}{}}
	if p.listener, err = net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432")); err != nil {
		t.Fatal(err)
	}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		_ = p.listener.Close()
		p.lose(0, 0)
		p.running.Wait()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		server, err := net.Dial("unix", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		l := &link{client: client, server: server}
		p.mu.Lock()
		p.links[l] = struct{}{}
		p.mu.Unlock()
		var ended sync.WaitGroup
		ended.Go(func() { l.pass(server, client, func() bool { return false }) })
		ended.Go(func() { l.pass(client, server, l.muted.Load) })
		p.running.Go(func() {
			ended.Wait()
			p.mu.Lock()
			delete(p.links, l)
			p.mu.Unlock()
		})
	}
}

// pass copies until one side ends. While lost says so, what is read goes nowhere.
func (l *link) pass(to, from net.Conn, lost func() bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !lost() {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	if !l.muted.Load() { // else lose ends both, in its own time
		_ = to.Close()
		_ = from.Close()
	}
}

// lose ends all sessions: for some time PostgreSQL goes on with what it was sent, and its answers are lost; then the clients see the
// end of their sessions, and some time after that PostgreSQL sees it.
func (p *proxy) lose(deaf, linger time.Duration) {
	p.mu.Lock()
	var links []*link
	for l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		l.muted.Store(true)
	}
	time.Sleep(deaf)
	for _, l := range links {
		_ = l.client.Close()
	}
	time.Sleep(linger)
	for _, l := range links {
		if err := l.server.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			continue // it has ended by itself
		}
	}
}
