package pgrelay

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"kineshim/pgwire"

	"golang.org/x/sys/unix"
)

const (
	// linkBuffer is the size of the chunks in which answers are passed on.
	linkBuffer = 32 << 10
	// maxRecord is the same with TLS, and so the largest record. libpq reads 8 KB of one at a time, which is PostgreSQL's own largest, and programs that wait
	// on its socket by themselves, as pg_basebackup and walreceivers do, do not see what is left of a larger one: they wait for ever.
	maxRecord = 8 << 10
)

// SQLSTATEs of refusals.
const (
	cannotConnectNow     = "57P03"
	invalidAuthorization = "28000"
	protocolViolation    = "08P01"
)

// link is one connection of a client.
type link struct {
	relay *Relay
	// raw is the client's connection, and client the same, or TLS on it. Only raw is closed: that never waits for somebody who does not read.
	raw, client net.Conn
	cut         bool // guarded by relay.mu

	mu      sync.Mutex // guards the fields below
	server  net.Conn
	tls     *tls.Conn // nil: in clear, or not yet
	session Session   // nil before it has one
	closed  bool
}

// over: the session in which the connection was made is over.
func (l *link) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session != nil && l.session.Over()
}

// deaf: the client's machine acknowledges nothing of what is sent to it again and again. One whose program does not read does.
func (l *link) deaf() bool {
	s, ok := l.raw.(syscall.Conn)
	if !ok {
		return false
	}
	c, err := s.SyscallConn()
	if err != nil {
		return false
	}
	var info *unix.TCPInfo
	_ = c.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }) // fails on closed ones only
	return err == nil && info != nil && info.Retransmits >= l.relay.cfg.deafAfter
}

// encrypted is the client's connection with TLS; nil if it has none.
func (l *link) encrypted() *tls.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tls
}

// close ends both sides, now or as soon as there is another.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.raw.Close()
	if l.server != nil {
		l.server.Close()
	}
}

// serve passes the connection on to its end.
func (l *link) serve(ctx context.Context) {
	defer l.close()
	packet, from := l.begin(ctx, bufio.NewReaderSize(l.client, linkBuffer))
	if packet == nil {
		return
	}
	session, err := l.relay.cfg.Gate.Enter()
	if err != nil {
		l.refuse(cannotConnectNow, "kineshim: "+err.Error(), "Connect to the virtual address, or to the node that is the primary.")
		return
	}
	d := net.Dialer{Timeout: dialWithin}
	server, err := d.DialContext(ctx, "unix", l.relay.cfg.Socket)
	if err != nil {
		l.refuse(cannotConnectNow, "kineshim: PostgreSQL cannot be reached", "")
		l.relay.complain("PostgreSQL cannot be reached on its socket", "error", err)
		return
	}
	l.mu.Lock()
	l.server, l.session = server, session
	closed := l.closed
	l.mu.Unlock()
	if closed || session.Over() {
		server.Close()
		return
	}
	if _, err := server.Write(packet); err != nil {
		return
	}
	var towards sync.WaitGroup
	towards.Go(func() {
		defer l.close()
		_, _ = io.Copy(server, from) // its end is the connection's, whatever the reason
	})
	l.answer(ctx, server, session)
	l.close()
	towards.Wait()
}

// begin reads who wants to connect, and returns what to read the rest from; nil: there is nothing to pass on, and the client has been told.
func (l *link) begin(ctx context.Context, from *bufio.Reader) ([]byte, *bufio.Reader) {
	if k, ok := l.raw.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok {
		_ = k.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive, Count: 3}) // fails on closed ones only
	}
	_ = l.raw.SetDeadline(time.Now().Add(beginWithin)) // fails on closed ones only
	for range 3 {                                      // GSS, TLS, and then the startup itself
		packet, code, err := pgwire.ReadStartup(from)
		if err != nil {
			return nil, nil
		}
		switch code {
		case pgwire.CancelRequest:
			l.relay.log.Debug("dropped a cancel request", "client", l.client.RemoteAddr())
			return nil, nil
		case pgwire.SSLRequest, pgwire.GSSRequest:
			if from.Buffered() > 0 { // sent before it was answered: it would count as sent encrypted
				return nil, nil
			}
			answer := byte('N')
			if code == pgwire.SSLRequest && l.relay.cfg.TLS != nil && l.encrypted() == nil {
				answer = 'S'
			}
			if _, err := l.client.Write([]byte{answer}); err != nil {
				return nil, nil
			}
			if answer == 'S' {
				if from = l.encrypt(ctx); from == nil {
					return nil, nil
				}
			}
			continue
		}
		params, err := pgwire.Parameters(packet)
		if err != nil {
			l.refuse(protocolViolation, "kineshim: "+err.Error(), "")
			return nil, nil
		}
		switch {
		case !l.relay.cfg.Proven && !l.relay.allowedFrom(l.client.RemoteAddr()):
			err = fmt.Errorf("connections from %s are not let in", l.client.RemoteAddr())
		case l.relay.cfg.NoPlainText && l.encrypted() == nil:
			err = errors.New("connections without TLS are not let in: sslmode=require")
		default:
			err = l.relay.admit(params)
		}
		if err != nil {
			l.relay.refused(l.client.RemoteAddr(), err)
			l.refuse(invalidAuthorization, "kineshim: "+err.Error(), l.relay.cfg.Hint)
			return nil, nil
		}
		_ = l.raw.SetDeadline(time.Time{}) // fails on closed ones only
		return packet, from
	}
	l.refuse(protocolViolation, "kineshim: encryption is asked for again and again", "")
	return nil, nil
}

// encrypt shakes hands with the client, and returns what to read from then on; nil: it came to nothing.
func (l *link) encrypt(ctx context.Context) *bufio.Reader {
	c := tls.Server(l.raw, l.relay.cfg.TLS)
	if err := c.HandshakeContext(ctx); err != nil {
		l.relay.refused(l.raw.RemoteAddr(), fmt.Errorf("TLS: %w", err))
		return nil
	}
	l.client = c
	l.mu.Lock()
	l.tls = c
	l.mu.Unlock()
	return bufio.NewReaderSize(c, linkBuffer)
}

// refuse tells the client why it is not served.
func (l *link) refuse(sqlState, message, hint string) {
	_ = l.client.SetWriteDeadline(time.Now().Add(sayWithin)) // fails on closed ones only
	_, _ = l.client.Write(pgwire.Fatal(sqlState, message, hint))
}

// answer passes on what PostgreSQL sends. The session is checked after each chunk has been gathered, and before the client sees it.
func (l *link) answer(ctx context.Context, server net.Conn, session Session) {
	size := linkBuffer
	if l.encrypted() != nil {
		size = maxRecord
	}
	buf := make([]byte, size)
	for {
		n, err := server.Read(buf)
		if n > 0 {
			if session.Check() != nil && !l.hold(ctx, session) {
				return
			}
			if _, werr := l.client.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// hold waits until the session holds again.
func (l *link) hold(ctx context.Context, session Session) bool {
	ctx, cancel := context.WithTimeout(ctx, holdFor)
	defer cancel()
	return session.Wait(ctx) == nil
}
