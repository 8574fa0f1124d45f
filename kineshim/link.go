package kineshim

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"kineshim/pgwire"
)

// linkBuffer is the size of a link's buffers, one for each direction.
const linkBuffer = 32 << 10

// link is one relayed connection.
type link struct {
	relay  *relay
	client net.Conn
	from   *bufio.Reader // what the engine sends
	// left is set before the server can learn that the engine has said goodbye or has closed: what the server does then is
	// no failure.
	left atomic.Bool
	// state is the transaction state of the last ReadyForQuery, fatal what PostgreSQL gave as its reason to end the
	// connection. Both belong to toClient.
	state byte
	fatal string
}

func newLink(r *relay, client net.Conn) *link {
	return &link{relay: r, client: client, from: bufio.NewReaderSize(client, linkBuffer)}
}

// startup reads how the connection begins: it refuses encryption, which a unix socket does not need, and returns the startup
// packet. False means that there is nothing to relay: a cancel request, or a client that has gone.
func (l *link) startup() ([]byte, bool) {
	for {
		packet, code, err := pgwire.ReadStartup(l.from)
		if err != nil {
			return nil, false
		}
		switch code {
		case pgwire.CancelRequest:
			l.relay.log.Debug("dropped a cancel request of the engine")
			return nil, false
		case pgwire.SSLRequest, pgwire.GSSRequest:
			if _, err := l.client.Write([]byte{'N'}); err != nil {
				return nil, false
			}
		default:
			return packet, true
		}
	}
}

// toServer passes on what the engine sends, until it leaves.
func (l *link) toServer(server net.Conn) {
	defer l.left.Store(true)
	to := bufio.NewWriterSize(server, linkBuffer)
	for {
		head, body, err := readHead(l.from)
		if err != nil {
			return
		}
		if head[0] == msgTerminate {
			l.left.Store(true)
		}
		if _, err := to.Write(head[:]); err != nil {
			return
		}
		if _, err := io.CopyN(to, l.from, body); err != nil {
			return
		}
		if l.from.Buffered() == 0 {
			if err := to.Flush(); err != nil {
				return
			}
		}
	}
}

// toClient passes on what PostgreSQL sends, and counts what is a failure before it passes it on. It returns when the
// connection is over; the caller closes the engine's side after that, so the end is counted before too.
func (l *link) toClient(server net.Conn) {
	from := bufio.NewReaderSize(server, linkBuffer)
	to := bufio.NewWriterSize(l.client, linkBuffer)
	for {
		if from.Buffered() == 0 {
			if to.Flush() != nil {
				return // the engine has closed its side
			}
		}
		head, body, err := readHead(from)
		if err != nil {
			l.serverEnded(err)
			_ = to.Flush()
			return
		}
		var whole []byte
		switch head[0] {
		case msgError, msgNotice, msgReadyForQuery:
			if body > maxInspected {
				l.relay.failures.add(fmt.Sprintf("PostgreSQL sent a message %q of %d bytes", head[0], body))
				return
			}
			whole = make([]byte, body)
			if _, err := io.ReadFull(from, whole); err != nil {
				l.serverEnded(err)
				return
			}
			l.inspect(head[0], whole)
		}
		if _, err := to.Write(head[:]); err != nil {
			return
		}
		if whole != nil {
			_, err = to.Write(whole)
		} else if _, err = io.CopyN(to, &serverReader{from: from, link: l}, body); err == errServerEnded {
			return
		}
		if err != nil {
			return
		}
	}
}

// serverEnded counts the end of PostgreSQL's side, unless the engine has left before. If PostgreSQL has said why, that is
// still the reason: it must not be hidden by what it led to.
func (l *link) serverEnded(err error) {
	if l.left.Load() || l.relay.ctx.Err() != nil {
		return
	}
	why := l.fatal
	if why == "" {
		why = err.Error()
	}
	l.relay.failures.add("the connection to PostgreSQL ended: " + why)
}

// inspect looks at a message that PostgreSQL sends about a statement.
func (l *link) inspect(kind byte, body []byte) {
	if kind == msgReadyForQuery {
		if len(body) == 1 {
			l.state = body[0]
		}
		return
	}
	f, err := parseFields(body)
	if err != nil {
		l.relay.failures.add("PostgreSQL sent an error that cannot be read: " + err.Error())
		return
	}
	if s := f.severity(); s == "FATAL" || s == "PANIC" {
		l.fatal = f.String()
	}
	switch {
	case kind == msgError && !l.harmless(f.sqlState()):
		l.relay.failures.add(f.String())
		l.relay.log.Warn("PostgreSQL failed a statement of the engine", "error", f.String())
	case kind == msgNotice && f.severity() == "WARNING":
		// kine's statements give notices at most. What a warning means for the statement is for nobody to guess.
		l.relay.failures.add(f.String())
		l.relay.log.Warn("PostgreSQL warned about a statement of the engine", "warning", f.String())
		// "canceling wait for synchronous replication due to user request", and the like when it is terminated.
		if strings.Contains(f.message(), "synchronous replication") {
			l.relay.lostSync(f.String())
		}
	}
}

// harmless says whether kine reads this error aright.
func (l *link) harmless(sqlState string) bool {
	switch sqlState {
	case "23505": // unique_violation: a lost race, which is what kine takes every failed insert for
		return true
	case "40001", "40P01": // serialization_failure, deadlock_detected: in the compaction, the only block that kine opens
		return l.state == inTransaction
	case "42P01": // undefined_table: kine looks for a table of its first version
		return l.relay.starting.Load()
	}
	return false
}

var errServerEnded = fmt.Errorf("relay: %w", io.ErrUnexpectedEOF)

// serverReader tells a read that failed, and counts it, from a write that failed.
type serverReader struct {
	from *bufio.Reader
	link *link
}

// Read reads from PostgreSQL.
func (s *serverReader) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	if err != nil {
		s.link.serverEnded(err)
		err = errServerEnded
	}
	return n, err
}

// ownedByUs says whether a directory is this process's user's.
func ownedByUs(dir string) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}
