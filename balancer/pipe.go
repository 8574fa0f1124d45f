package balancer

import (
	"io"
	"net"
	"sync"
	"time"
)

// halfCloser is a connection that can say that nothing more will come. TCP's can.
type halfCloser interface{ CloseWrite() error }

// pipe copies both ways until both sides have said all, or either is broken. A side that has said all leaves the other one halfClosedFor to
// end.
func pipe(a, b net.Conn) {
	setKeepAlive(a)
	var both sync.WaitGroup
	both.Go(func() { oneWay(a, b) })
	both.Go(func() { oneWay(b, a) })
	both.Wait()
}

// oneWay copies until the source ends.
func oneWay(to, from net.Conn) {
	_, err := io.Copy(to, from) // splices in the kernel when both are plain TCP
	h, can := to.(halfCloser)
	if err != nil || !can || h.CloseWrite() != nil {
		to.Close()
		from.Close()
		return
	}
	_ = to.SetReadDeadline(time.Now().Add(halfClosedFor)) // it fails only when the connection is closed
}

func setKeepAlive(c net.Conn) {
	if k, ok := c.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok {
		_ = k.SetKeepAliveConfig(keepAliveConfig) // it fails only when the connection is closed
	}
}
