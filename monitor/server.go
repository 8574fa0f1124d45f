package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// maxConnections is far more than the load balancers and Prometheus servers of one node open. The rest waits in the kernel's queue.
	maxConnections = 128
	// maxHeaderBytes is enough for a browser's cookies of other services at the same host.
	maxHeaderBytes = 16 << 10
	// Nobody keeps a connection from others by being slow, or silent.
	readTimeout, writeTimeout, idleTimeout = 5 * time.Second, 10 * time.Second, time.Minute
	// endTimeout is how long answers under way have at the end.
	endTimeout = time.Second
)

// Serve answers on ln until ctx ends, and closes it.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	s := &http.Server{
		Handler: h, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(limited(ln)) }() // ends with Close
	select {
	case err := <-ended:
		return fmt.Errorf("http_listen: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	err := s.Shutdown(end)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.Close()
	}
	<-ended
	return err
}

// limitedListener has at most as many connections open as slots has room.
type limitedListener struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func limited(ln net.Listener) net.Listener {
	return &limitedListener{Listener: ln, slots: make(chan struct{}, maxConnections), closed: make(chan struct{})}
}

// Accept waits for a free slot first.
func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, slots: l.slots}, nil
}

// Close ends Accept, too, while it waits for a slot.
func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	slots chan struct{}
	once  sync.Once
}

// Close gives the slot back.
func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.slots })
	return err
}
